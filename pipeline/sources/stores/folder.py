"""A folder of files, walked without following links."""

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
    """The files below a folder; hidden ones are passed over.

    Folders that are links are not entered, so a walk ends and stays inside; a file that is a link is read
    only if it leads to a file inside. What is passed over is listed all the same, with the reason.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._text = root, str(root)

    def entries(self) -> Iterator[Entry]:
        """Yield every file, sorted; a change of size or modification time changes its stamp."""
        try:
            yield from self._walk(self._text, "", "")
        except PermissionError as error:
            raise DataError(
                "the folder, or one below it, cannot be read",
                field="sources",
                value=self._text,
                remedy="Give yourself read access (chmod u+rX) and run again.",
            ) from error

    def read(self, name: str) -> bytes:
        """Return the bytes of a file, read once."""
        path = f"{self._text}/{name}"
        if ".." in name.split("/"):
            raise ScanRefusedError("leads out of the source folder")
        try:
            if os.path.islink(path):  # noqa: PTH114 - a Path for each of a million files costs more than this
                self._check_link(Path(path))
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
                    "the folder is gone",
                    field="sources",
                    value=self._text,
                    remedy="Mount or restore it and run again; finished scans are kept.",
                ) from error
            raise ScanRefusedError("file missing") from error
        except (OSError, ValueError) as error:
            raise ScanRefusedError("file unreadable") from error

    def _check_link(self, path: Path) -> None:
        try:
            inside = self._is_inside(path)
        except (OSError, RuntimeError) as error:
            raise ScanRefusedError("file unreadable") from error
        if not inside:
            raise ScanRefusedError("leads out of the source folder")

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
        """Yield what lies in a hidden folder, which may well be another user's."""
        try:
            yield from self._walk(entry.path, name + "/", HIDDEN)
        except PermissionError:
            yield Entry(name, 0, "", skipped=CLOSED)

    def _link(self, entry: os.DirEntry[str], name: str, hidden: str) -> Entry:
        """Return a link's entry, stamped by what it leads to: that is what will be read."""
        reason = ""
        try:
            status = entry.stat()
            if entry.is_dir():
                reason = INNER_LINK if self._is_inside(Path(entry.path)) else FOLDER_LINK
        except (OSError, RuntimeError):
            status = entry.stat(follow_symlinks=False)
        # Hidden or not, what lies behind a link to a folder is not known.
        refusal = "" if hidden else reason
        return Entry(name, status.st_size, f"link {status.st_mtime_ns}", refusal, reason or hidden)
