"""A folder as a store, traversed without following links to folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import DataError, ScanRefusedError
from pipeline.sources.stores.base import (
    CLOSED,
    FOLDER_LINK,
    HIDDEN,
    INNER_LINK,
    MAX_FILE_BYTES,
    NO_FILE,
    Entry,
)


class FolderStore:
    """The files below a folder.

    Links to folders are not followed, so the traversal ends and stays inside. A link to a file is read only
    if the file is inside. Hidden files and other skipped items are listed with the reason.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._text = root, str(root)

    def entries(self) -> Iterator[Entry]:
        """Yield every item, sorted by folder and name; the stamp of a file is its modification time."""
        try:
            yield from self._walk(self._text, "", "")
        except PermissionError as error:
            raise DataError(
                "the folder or one of its subfolders cannot be read",
                field="sources",
                value=self._text,
                remedy="Give yourself read access (chmod u+rX) and run again.",
            ) from error

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""
        path = f"{self._text}/{name}"
        if ".." in name.split("/"):
            raise ScanRefusedError("leads out of the source folder")
        try:
            # A Path per file would be slow for a million files.
            if os.path.islink(path) and not self._is_inside(Path(path)):  # noqa: PTH114
                raise ScanRefusedError("leads out of the source folder")
            with open(path, "rb") as stream:  # noqa: PTH123
                size = os.fstat(stream.fileno()).st_size
                if size > MAX_FILE_BYTES:
                    raise ScanRefusedError("file too large")
                if size == 0:
                    raise ScanRefusedError("empty file")
                return stream.read(size)
        except FileNotFoundError as error:
            if not self._root.is_dir():
                raise DataError(
                    "the folder no longer exists",
                    field="sources",
                    value=self._text,
                    remedy="Mount or restore it and run again; finished scans are kept.",
                ) from error
            raise ScanRefusedError("file missing") from error
        # A loop of links is a RuntimeError.
        except (OSError, RuntimeError, ValueError) as error:
            raise ScanRefusedError("file unreadable") from error

    def _is_inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self._root.resolve())

    def _walk(self, folder: str, prefix: str, skipped: str) -> Iterator[Entry]:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            name = prefix + entry.name
            hidden = HIDDEN if entry.name[0] == "." else skipped
            if entry.is_dir(follow_symlinks=False):
                yield from self._hidden(entry, name) if hidden else self._walk(entry.path, name + "/", "")
            elif entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                yield Entry(name, status.st_size, str(status.st_mtime_ns), skipped=hidden)
            elif entry.is_symlink():
                yield self._link(entry, name, hidden)
            else:
                yield Entry(name, 0, "", skipped=NO_FILE)

    def _hidden(self, entry: os.DirEntry[str], name: str) -> Iterator[Entry]:
        """Yield the items of a hidden folder, which may be unreadable."""
        try:
            yield from self._walk(entry.path, name + "/", HIDDEN)
        except PermissionError:
            yield Entry(name, 0, "", skipped=CLOSED)

    def _link(self, entry: os.DirEntry[str], name: str, hidden: str) -> Entry:
        """Return the entry of a link, with the size and stamp of its target, which will be read."""
        reason = ""
        try:
            status = entry.stat()
            if entry.is_dir():
                reason = INNER_LINK if self._is_inside(Path(entry.path)) else FOLDER_LINK
        except (OSError, RuntimeError):
            status = entry.stat(follow_symlinks=False)
        stamp = f"link {status.st_mtime_ns}"
        return Entry(name, status.st_size, stamp, "" if hidden else reason, reason or hidden)
