"""What every store offers, and the bounds that all of them keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

MAX_FILE_BYTES = 512 * 2**20
"""Largest file that is read into memory."""

MAX_MEMBERS = 5_000_000
"""Most files of one archive."""

MAX_RATIO = 1100
"""Most bytes that a byte of an archive may stand for; deflate ends at 1032 (RFC 1951)."""

UNSAFE = "unsafe path in the archive"
"""Reason of refusal of a member whose name leads out of the archive."""

LINK = "a link or device in the archive, not a file"
"""Reason of refusal of an archive member that is no regular file."""

HIDDEN = "hidden"
FOLDER_LINK = "a link to a folder elsewhere, which is not followed"
INNER_LINK = "a link to a folder of the source itself, which is not followed"
NO_FILE = "neither a file nor a folder"
CLOSED = "a folder that cannot be read"
NOT_NAMED = "not named by the DICOMDIR"


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies in a store, before it is read: a file, or something that is passed over and counted.

    Attributes:
        name: relative name with `/` between its parts. Identifying: never written or logged.
        size: bytes, 0 if unknown.
        stamp: text that changes when the content does (modification time, checksum, instance UID).
        refusal: why the file cannot be used, known without reading it; empty if nothing is known.
        skipped: why it is passed over whatever a manifest includes; empty for a file that may be a scan.
    """

    name: str
    size: int
    stamp: str
    refusal: str = ""
    skipped: str = ""


class Store(Protocol):
    """A place that holds files."""

    def entries(self) -> Iterator[Entry]:
        """Yield all that lies there but plain folders, sorted by name; `skipped` marks what is no scan.

        Raises:
            DataError: the store itself cannot be read.
        """

    def read(self, name: str) -> bytes:
        """Return the bytes of one file.

        Raises:
            ScanRefusedError: this file is missing, empty, too large or damaged.
            DataError: the store itself is gone.
        """


def is_hidden(name: str) -> bool:
    """Tell whether a file or a folder above it is hidden, or an archiver's own."""
    parts = name.split("/")
    return any((part[:1] == "." and part != "..") or part == "__MACOSX" for part in parts)


def is_unsafe(name: str) -> bool:
    """Tell whether a member's name is absolute, climbs, or is spelled for another system."""
    parts = name.split("/")
    return (
        not name
        or name.startswith("/")
        or "\\" in name
        or "\0" in name
        or ".." in parts
        or (len(parts[0]) > 1 and parts[0][1] == ":")
    )
