"""Writing so that a kill or a full disk loses nothing: atomic files, private folders, digests."""

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
"""There a mode tells nothing of other users, no folder is flushed, and nothing open is moved or removed."""

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces, equal for equal values. NaN and infinity are refused."""
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
    """Turn a full or read-only disk into a `StorageError` that names the role of the file and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StorageError(
                "no space left on the disk",
                field=str(path),
                remedy="Free space (--dry-run estimates it) and run again.",
            ) from error
        if error.errno in {errno.EACCES, errno.EROFS, errno.EPERM}:
            raise StorageError(
                "cannot be written", field=str(path), remedy="Choose an --out that you may write to."
            ) from error
        raise


def make_private_directory(path: Path) -> Path:
    """Make a directory that only its owner may enter (mode 0700), and its parents, and return it.

    One that is there keeps its mode: others may have their files in it, and what we write there is private
    file by file.
    """
    with storage_errors(path):
        try:
            path.mkdir(mode=PRIVATE_DIRECTORY_MODE, parents=True)
        except FileExistsError:
            if not path.is_dir():
                raise
        else:
            # Whatever the umask left of it.
            path.chmod(PRIVATE_DIRECTORY_MODE)
    return path


@contextlib.contextmanager
def atomic_path(path: Path, *, private: bool = False, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced to disk and renamed to `path`.

    The temporary name starts with a dot and ends in `.partial` plus the final suffix. On any error it is
    removed and an earlier `path` stays as it was.

    Args:
        path: the final path.
        private: give it mode 0600.
        durable: wait until the content is on the disk; without it a power failure (not a kill) may leave a
            file cut short, so whoever reads it must be able to tell.
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
    """Flush a directory's entries to disk, so that a rename in it survives a power loss."""
    if ON_WINDOWS:
        # It opens no folder like a file; NTFS keeps a journal of renames by itself.
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text file atomically in UTF-8, its lines ended as in `text` on every system."""
    with atomic_path(path, private=private) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any, *, private: bool = False) -> None:
    """Write a JSON file atomically, indented, keys sorted."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n", private=private)


def read_json(path: Path, *, role: str) -> Any:
    """Read a JSON file of at most 64 MiB.

    Raises:
        DataError: the file is missing, too large, or not JSON; the message names `role`.
    """
    try:
        if path.stat().st_size > 64 * 2**20:
            raise DataError("the file is too large to be one of ours", field=role, remedy="Make it again.")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{path.name} is missing",
            field=role,
            value=str(path.parent),
            remedy="Name a finished output directory.",
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(
            f"{path.name} is not valid JSON", field=role, remedy="Make this output again."
        ) from error


def free_bytes(path: Path) -> int:
    """Return the free space in bytes on the disk that holds `path` or its nearest existing parent."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def others_may_read(path: Path) -> bool:
    """Return whether a file's mode lets other users read it; on Windows the user's folder keeps them out."""
    return not ON_WINDOWS and bool(path.stat().st_mode & 0o077)


def cache_directory() -> Path:
    """Return the private cache folder (`PHOSPHOR_CACHE`, else the user's own), made with mode 0700.

    Raises:
        UsageError: the user has no home folder, and the variable names none.
    """
    from platformdirs import user_cache_path

    named = os.environ.get("PHOSPHOR_CACHE")
    return make_private_directory(
        Path(named) if named else of_the_user(user_cache_path, "name a folder in PHOSPHOR_CACHE")
    )


def of_the_user(find: Callable[[str], Path], otherwise: str) -> Path:
    """Return a folder of the user's for Phosphor, as `find` of platformdirs names it.

    Args:
        find: name of the application -> its folder.
        otherwise: what else the user can do, for the error.

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
    """Write a pyarrow Table or pandas DataFrame as Parquet, atomically; equal content, equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = table if isinstance(table, pa.Table) else pa.Table.from_pandas(table, preserve_index=False)
    with atomic_path(path, private=private) as temporary:
        pq.write_table(arrow.replace_schema_metadata(None), temporary, compression="zstd")


def write_npy(path: Path, array: npt.NDArray[Any], *, private: bool = False) -> None:
    """Write an npy file atomically, the same bytes as `numpy.save`.

    `numpy.save` writes through its own C stream: on a full disk it raises an error without a number, and a
    small array it cuts short without any error at all.
    """
    import numpy as np

    whole = np.ascontiguousarray(array)
    with atomic_path(path, private=private) as temporary, temporary.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(whole))
        stream.write(whole.data)
