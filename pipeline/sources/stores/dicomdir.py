"""A DICOM medium: the files that a DICOMDIR lists (PS3.3 F.3, PS3.10 8)."""

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
    """The files that a DICOMDIR refers to; a file that it names but that is not there is refused by name.

    Args:
        path: the DICOMDIR file.

    Raises:
        DataError: not a DICOMDIR, or too large.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent)
        self._directory = path.name
        self._names = _referenced(path)

    def entries(self) -> Iterator[Entry]:
        """Yield every referenced file, sorted by its name on the disk; others as passed over."""
        found: dict[str, Entry] = {}
        try:
            for entry in super().entries():
                # The directory itself was read.
                if entry.name != self._directory:
                    found[entry.name] = entry if entry.skipped else replace(entry, skipped=NOT_NAMED)
        except DataError:
            # What the medium names may be readable all the same.
            found[""] = Entry("", 0, "", skipped=CLOSED)
        for name in self._names:
            entry = self._entry(name)
            found[entry.name] = entry
        for name in sorted(found):
            yield found[name]

    def _entry(self, name: str) -> Entry:
        if is_unsafe(name):
            return Entry(name, 0, "", UNSAFE)
        # Media are often copied to disks with their names in lower case.
        for spelled in (name, name.lower()):
            path = self._root / spelled
            if path.is_file():
                status = path.stat()
                return Entry(spelled, status.st_size, str(status.st_mtime_ns))
        return Entry(name, 0, "", "file missing")


def _referenced(path: Path) -> list[str]:
    """Return the relative names of all files that the directory records refer to."""
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
        # pydicom raises many kinds on broken files.
        except Exception as error:
            raise problem from error
    if not names or len(names) > MAX_MEMBERS:
        raise problem
    return names
