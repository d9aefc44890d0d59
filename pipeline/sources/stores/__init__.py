"""Where the files of a source lie: a folder, an archive, a DICOM medium, each listed and read alike."""

from __future__ import annotations

import contextlib
import functools
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import DataError
from pipeline.manifest.web_access import WebAccess
from pipeline.sources.stores.base import MAX_FILE_BYTES, Entry, Store

if TYPE_CHECKING:
    from pipeline.sources.base import ReadRule

__all__ = ["MAX_FILE_BYTES", "Entry", "Store", "drop_unpacked", "kind_of", "open_store"]

_DICOM_MAGIC = b"DICM"


def kind_of(path: Path, *, field: str) -> str:
    """Return the kind of store at a path: `folder`, `zip`, `tar` or `dicomdir`.

    Args:
        path: absolute path from a manifest.
        field: manifest key that named it, for messages.

    Raises:
        DataError: nothing is there, or it is no store.
    """
    if path.is_dir():
        return "folder"
    if not path.is_file():
        raise DataError(
            "no such folder or archive",
            field=field,
            value=str(path),
            remedy="Correct the path in the manifest.",
        )
    from pipeline.sources.stores.tar import is_tar

    try:
        with path.open("rb") as stream:
            start = stream.read(132)
        if start[128:] == _DICOM_MAGIC:
            return "dicomdir"
        if zipfile.is_zipfile(path):
            return "zip"
        if is_tar(path):
            return "tar"
    except OSError as error:
        raise DataError(
            "cannot be read", field=field, value=str(path), remedy="Give yourself read access to it."
        ) from error
    raise DataError(
        "neither a folder nor a zip or tar archive nor a DICOMDIR",
        field=field,
        value=str(path),
        remedy="Name the folder, archive or DICOMDIR that holds the scans.",
    )


def open_store(rule: ReadRule) -> Store:
    """Return the store of a source, opened once in each process and anew when the archive has changed."""
    if rule.store == "dicomweb":
        return _served(rule.root, rule.web or WebAccess())
    stamp = 0
    if rule.store in {"zip", "tar", "dicomdir"}:
        try:
            status = Path(rule.root).stat()
        except OSError as error:
            raise DataError(
                "the archive is gone", field="sources", remedy="Put it back and run again."
            ) from error
        stamp = hash((status.st_size, status.st_mtime_ns))
    return _opened(rule.store, rule.root, stamp)


@functools.lru_cache(maxsize=16)
def _served(url: str, access: WebAccess) -> Store:
    from pipeline.sources.dicomweb.store import DicomWebStore

    return DicomWebStore(url, access)


@functools.lru_cache(maxsize=16)
def _opened(kind: str, root: str, stamp: int) -> Store:
    if kind == "zip":
        from pipeline.sources.stores.zip import ZipStore

        return ZipStore(Path(root))
    if kind == "tar":
        from pipeline.sources.stores.tar import TarStore

        return TarStore(Path(root))
    if kind == "dicomdir":
        from pipeline.sources.stores.dicomdir import DicomdirStore

        return DicomdirStore(Path(root))
    from pipeline.sources.stores.folder import FolderStore

    return FolderStore(Path(root))


def drop_unpacked(rules: set[ReadRule]) -> None:
    """Remove what compressed archives were unpacked to in the cache, once all their scans are read."""
    from pipeline.sources.stores.tar import unpacked_path

    # Closed first: Windows removes no open file, and leaves one that another run reads to that run.
    _opened.cache_clear()
    for rule in rules:
        if rule.store == "tar":
            with contextlib.suppress(PermissionError):
                unpacked_path(Path(rule.root)).unlink(missing_ok=True)
