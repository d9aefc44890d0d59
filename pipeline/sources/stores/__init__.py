"""Stores of files: folders, archives, DICOM media and DICOMweb servers behind one interface."""

from __future__ import annotations

import contextlib
import functools
import zipfile
from collections.abc import Callable
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
        path: absolute path.
        field: manifest key or option with this path, for error messages.

    Raises:
        DataError: the path does not exist, cannot be read, or is not a store.
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
        "not a folder, zip archive, tar archive or DICOMDIR",
        field=field,
        value=str(path),
        remedy="Name the folder, archive or DICOMDIR that holds the scans.",
    )


def open_store(rule: ReadRule) -> Store:
    """Return the store of a source, opened once per process, and again if the archive changed.

    Raises:
        DataError: the archive no longer exists or cannot be opened.
    """
    if rule.store == "dicomweb":
        return _server_store(rule.root, rule.web or WebAccess())
    stamp = 0
    if rule.store in {"zip", "tar", "dicomdir"}:
        try:
            status = Path(rule.root).stat()
        except OSError as error:
            raise DataError(
                "the archive no longer exists", field="sources", remedy="Restore it and run again."
            ) from error
        stamp = hash((status.st_size, status.st_mtime_ns))
    return _file_store(rule.store, rule.root, stamp)


@functools.lru_cache(maxsize=16)
def _server_store(url: str, access: WebAccess) -> Store:
    from pipeline.sources.dicomweb.store import DicomWebStore

    return DicomWebStore(url, access)


@functools.lru_cache(maxsize=16)
def _file_store(kind: str, root: str, stamp: int) -> Store:
    from pipeline.sources.stores.dicomdir import DicomdirStore
    from pipeline.sources.stores.folder import FolderStore
    from pipeline.sources.stores.tar import TarStore
    from pipeline.sources.stores.zip import ZipStore

    stores: dict[str, Callable[[Path], Store]] = {"zip": ZipStore, "tar": TarStore, "dicomdir": DicomdirStore}
    return stores.get(kind, FolderStore)(Path(root))


def drop_unpacked(rules: set[ReadRule]) -> None:
    """Remove the unpacked copies of compressed archives from the cache, after all scans are read."""
    from pipeline.sources.stores.tar import unpacked_path

    # Windows does not remove open files: close those of this run, and keep those that another run reads.
    _file_store.cache_clear()
    for rule in rules:
        if rule.store == "tar":
            with contextlib.suppress(PermissionError):
                unpacked_path(Path(rule.root)).unlink(missing_ok=True)
