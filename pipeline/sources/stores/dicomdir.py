"""A DICOM medium as a store: the files that its DICOMDIR lists (PS3.3 F.3, PS3.10 8)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.errors import DataError
from pipeline.sources.stores.base import (
    CLOSED,
    MAX_FILE_BYTES,
    MAX_MEMBERS,
    NOT_NAMED,
    UNSAFE,
    Entry,
    is_unsafe,
)
from pipeline.sources.stores.folder import FolderStore

_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"


class DicomdirStore(FolderStore):
    """The files that a DICOMDIR lists; a listed file that is missing is refused.

    Args:
        path: the DICOMDIR file.

    Raises:
        DataError: the file is not a DICOMDIR, lists no file, or is too large.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent)
        self._directory = path.name
        self._names = _listed_names(path)

    def entries(self) -> Iterator[Entry]:
        """Yield the listed files, and all others as skipped, sorted by their names on the disk."""
        found: dict[str, Entry] = {}
        try:
            for entry in super().entries():
                if entry.name != self._directory:
                    found[entry.name] = entry if entry.skipped else replace(entry, skipped=NOT_NAMED)
        except DataError:
            # The listed files may be readable even if a folder is not.
            found[""] = Entry("", 0, "", skipped=CLOSED)
        found.update((entry.name, entry) for entry in map(self._entry, self._names))
        yield from (found[name] for name in sorted(found))

    def _entry(self, name: str) -> Entry:
        if is_unsafe(name):
            return Entry(name, 0, "", UNSAFE)
        # Names are often changed to lower case when media are copied.
        for spelled in (name, name.lower()):
            path = self._root / spelled
            if path.is_file():
                status = path.stat()
                return Entry(spelled, status.st_size, str(status.st_mtime_ns))
        return Entry(name, 0, "", "file missing")


def _listed_names(path: Path) -> list[str]:
    """Return the relative names of all files in the directory records."""
    import pydicom

    problem = DataError(
        "not a readable DICOMDIR", field="sources", value=str(path), remedy="Name the folder instead."
    )
    if path.stat().st_size > MAX_FILE_BYTES:
        raise problem
    with warnings.catch_warnings():
        # pydicom's warnings quote header values.
        warnings.simplefilter("ignore")
        try:
            directory = pydicom.dcmread(path, specific_tags=["DirectoryRecordSequence"])
            if str(directory.file_meta.get("MediaStorageSOPClassUID", "")) != _MEDIA_DIRECTORY:
                raise problem
            names: list[str] = []
            for record in directory.get("DirectoryRecordSequence") or ():
                parts = record.get("ReferencedFileID")
                if parts:
                    names.append("/".join([parts] if isinstance(parts, str) else [str(p) for p in parts]))
        except DataError:
            raise
        # pydicom raises many exception types for corrupt files.
        except Exception as error:
            raise problem from error
    if not names or len(names) > MAX_MEMBERS:
        raise problem
    return names
