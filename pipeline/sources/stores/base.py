"""The interface of stores, and their shared limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

MAX_FILE_BYTES = 512 * 2**20
"""Largest file in bytes that is read into memory."""

MAX_MEMBERS = 5_000_000
"""Largest number of files in one archive."""

MAX_RATIO = 1100
"""Largest ratio of unpacked to packed bytes; deflate reaches 1032 (RFC 1951)."""

UNSAFE = "unsafe path in the archive"
"""Reason for refusing a member whose name leads out of the archive."""

LINK = "a link or device in the archive, not a file"
"""Reason for refusing an archive member that is not a regular file."""

HIDDEN = "hidden"
FOLDER_LINK = "a link to a folder elsewhere, which is not followed"
INNER_LINK = "a link to a folder of the source itself, which is not followed"
NO_FILE = "neither a file nor a folder"
CLOSED = "a folder that cannot be read"
NOT_NAMED = "not listed in the DICOMDIR"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a store that was not read yet, or an item that is skipped and counted.

    Attributes:
        name: relative name with `/` as separator; identifying, so it is never written or logged.
        size: size in bytes; 0 if unknown.
        stamp: text that changes with the content (modification time, checksum, instance UID).
        refusal: reason for refusing the file that is known without reading it; empty if there is none.
        skipped: reason for skipping the item in every manifest; empty for a file that may be a scan.
    """

    name: str
    size: int
    stamp: str
    refusal: str = ""
    skipped: str = ""


class Store(Protocol):
    """A place that holds files."""

    def entries(self) -> Iterator[Entry]:
        """Yield all items except plain folders, sorted by name.

        Raises:
            DataError: the store itself cannot be read.
        """

    def read(self, name: str) -> bytes:
        """Return the bytes of one file.

        Raises:
            ScanRefusedError: this file is missing, empty, too large or damaged.
            DataError: the store itself no longer exists.
        """


def member_entry(name: str, size: int, stamp: str, refusal: str) -> Entry:
    """Return the entry of an archive member; hidden members and links are skipped."""
    if is_hidden(name):
        return Entry(name, size, stamp, skipped=HIDDEN)
    return Entry(name, size, stamp, refusal, LINK if refusal == LINK else "")


def is_hidden(name: str) -> bool:
    """Return whether a file, or a folder above it, is hidden or was added by the archiver."""
    parts = name.split("/")
    return any((part[:1] == "." and part != "..") or part == "__MACOSX" for part in parts)


def is_unsafe(name: str) -> bool:
    """Return whether a member's name is empty, absolute, leads upwards, or is a Windows path."""
    parts = name.split("/")
    return (
        not name
        or name.startswith("/")
        or "\\" in name
        or "\0" in name
        or ".." in parts
        or (len(parts[0]) > 1 and parts[0][1] == ":")
    )
