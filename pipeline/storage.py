"""Atomic writes that survive a kill or a full disk, private folders, and digests."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import DataError, StorageError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

PRIVATE_DIRECTORY_MODE = 0o700
PRIVATE_FILE_MODE = 0o600
ON_WINDOWS = os.name == "nt"
"""On Windows, modes do not restrict other users, folders cannot be synced, and open files cannot be moved."""

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and without spaces; equal values give equal texts.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest_of(value: Any) -> str:
    """Return the sha256 (hex) of a JSON-serialisable value's canonical form."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_files(folder: Path, names: list[str]) -> dict[str, str]:
    """Return {relative name: sha256} of files below `folder`, in sorted order."""
    return {name: sha256_file(folder / name) for name in sorted(names)}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Convert the error of a full or read-only disk into a `StorageError` with `path` and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StorageError(
                "no space left on the disk",
                field=str(path),
                remedy="Free space (--dry-run estimates how much is needed) and run again.",
            ) from error
        if error.errno in {errno.EACCES, errno.EROFS, errno.EPERM}:
            raise StorageError(
                "cannot be written", field=str(path), remedy="Choose an --out with write permission."
            ) from error
        raise


def make_private_directory(path: Path) -> Path:
    """Create a directory (mode 0700) and its parents, and return it.

    An existing directory keeps its mode, because other users may have files there; private files in it have
    mode 0600.
    """
    with storage_errors(path):
        try:
            path.mkdir(mode=PRIVATE_DIRECTORY_MODE, parents=True)
        except FileExistsError:
            if not path.is_dir():
                raise
        else:
            path.chmod(PRIVATE_DIRECTORY_MODE)  # mkdir applies the umask
    return path


@contextlib.contextmanager
def atomic_path(path: Path, *, private: bool = False, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success, sync it to disk and rename it to `path`.

    The temporary name starts with a dot and ends in `.partial` and the final suffix. After an error, it is
    removed and an earlier `path` is unchanged.

    Args:
        path: the final path.
        private: use mode 0600 instead of 0644.
        durable: wait until the content is on the disk. Without it, a power failure (not a kill) may truncate
            the file, so the reader must detect that.
    """
    with storage_errors(path):
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}-", suffix=f".partial{path.suffix}", dir=path.parent
        )
        os.close(handle)
    temporary = Path(name)
    try:
        with storage_errors(path):
            yield temporary
            temporary.chmod(PRIVATE_FILE_MODE if private else 0o644)
            if durable:
                with temporary.open("rb+") as stream:
                    os.fsync(stream.fileno())
            temporary.replace(path)
            if durable:
                sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Sync a directory's entries to disk, so that a rename in it survives a power failure."""
    if ON_WINDOWS:  # Folders cannot be opened; NTFS keeps a journal of renames.
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text file atomically in UTF-8, without converting line ends."""
    with atomic_path(path, private=private) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any, *, private: bool = False) -> None:
    """Write a JSON file atomically, indented and with sorted keys."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n", private=private)


def read_json(path: Path, *, role: str) -> Any:
    """Read a JSON file of at most 64 MiB.

    Raises:
        DataError: the file is missing, too large, or not JSON; the error's field is `role`.
    """
    try:
        if path.stat().st_size > 64 * 2**20:
            raise DataError(f"{path.name} is larger than 64 MiB", field=role, remedy="Create it again.")
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"{path.name} is missing",
            field=role,
            value=str(path.parent),
            remedy="Give a finished output directory.",
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(
            f"{path.name} is not valid JSON", field=role, remedy="Make this output again."
        ) from error


def free_bytes(path: Path) -> int:
    """Return the free space in bytes on the disk of `path` or its nearest existing parent."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def others_may_read(path: Path) -> bool:
    """Return whether a file's mode lets other users read it; False on Windows, where folders protect it."""
    return not ON_WINDOWS and bool(path.stat().st_mode & 0o077)


def cache_directory() -> Path:
    """Return the private cache folder, `PHOSPHOR_CACHE` or else the user's; create it with mode 0700.

    Raises:
        UsageError: the user has no home folder, and the variable is not set.
    """
    from platformdirs import user_cache_path

    folder = os.environ.get("PHOSPHOR_CACHE")
    return make_private_directory(
        Path(folder) if folder else of_the_user(user_cache_path, "set PHOSPHOR_CACHE to a folder")
    )


def of_the_user(find: Callable[[str], Path], otherwise: str) -> Path:
    """Return the user's folder for Phosphor.

    Args:
        find: function of platformdirs, from the name of an application to its folder.
        otherwise: alternative remedy for the error.

    Raises:
        UsageError: the user has no home folder.
    """
    try:
        return find("phosphor")
    except (RuntimeError, KeyError) as error:
        raise UsageError(
            "this user has no home folder", field="HOME", remedy=f"Set it, or {otherwise}."
        ) from error


def write_parquet(path: Path, table: Any, *, private: bool = False) -> None:
    """Write a pyarrow Table or pandas DataFrame atomically as Parquet; equal content gives equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = table if isinstance(table, pa.Table) else pa.Table.from_pandas(table, preserve_index=False)
    with atomic_path(path, private=private) as temporary:
        pq.write_table(arrow.replace_schema_metadata(None), temporary, compression="zstd")


def write_npy(path: Path, array: npt.NDArray[Any], *, private: bool = False) -> None:
    """Write an npy file atomically, with the same bytes as `numpy.save`.

    On a full disk, `numpy.save` raises an error without errno, and truncates a small array without any error,
    because it writes through its own C stream.
    """
    import numpy as np

    whole = np.ascontiguousarray(array)
    with atomic_path(path, private=private) as temporary, temporary.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(whole))
        stream.write(whole.data)
