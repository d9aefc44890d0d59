"""A zip archive as a store; members are read in place."""

from __future__ import annotations

import stat
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import DataError, ScanRefusedError
from pipeline.sources.stores.base import (
    LINK,
    MAX_FILE_BYTES,
    MAX_MEMBERS,
    MAX_RATIO,
    UNSAFE,
    Entry,
    is_unsafe,
    member_entry,
)

_ENCRYPTED = 0x1
_UNIX = 3
_SLACK_BYTES = 2**20


class ZipStore:
    """The members of a zip archive.

    Unsafe names, links, duplicate names and encrypted members are listed with the reason for refusal. An
    archive whose members overlap, so that it unpacks to more data than deflate can hold, is refused.

    Raises:
        DataError: the file is not a zip archive, has too many members, or unpacks to too much data.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise DataError(
                "not a readable zip archive", field="sources", value=str(path), remedy="Create it again."
            ) from error
        members = self._archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if len(members) > MAX_MEMBERS or unpacked > MAX_RATIO * path.stat().st_size + _SLACK_BYTES:
            self._archive.close()
            raise DataError(
                "the archive has too many members, or unpacks to more data than its compression allows",
                field="sources",
                value=str(path),
                remedy="Unpack it with care, and name the folder in the manifest.",
            )
        self._entries = _listed(members)

    def entries(self) -> Iterator[Entry]:
        """Yield every member, sorted by name; its stamp is its checksum."""
        yield from self._entries

    def read(self, name: str) -> bytes:
        """Return the bytes of a member, whose checksum is verified."""
        try:
            with self._archive.open(name) as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
        except KeyError as error:
            raise ScanRefusedError("file missing") from error
        # zipfile and the decompressors raise many exception types for damaged members.
        except Exception as error:
            raise ScanRefusedError("archive member damaged") from error
        if len(data) > MAX_FILE_BYTES:
            raise ScanRefusedError("file too large")
        if not data:
            raise ScanRefusedError("empty file")
        return data


def _listed(members: list[zipfile.ZipInfo]) -> list[Entry]:
    counts = Counter(member.filename for member in members)
    found: dict[str, Entry] = {}
    for member in members:
        name = member.filename
        if member.is_dir():
            continue
        refusal = "duplicate name in the archive" if counts[name] > 1 else _refusal(member)
        found[name] = member_entry(name, member.file_size, f"{member.CRC:08x}", refusal)
    return [found[name] for name in sorted(found)]


def _refusal(member: zipfile.ZipInfo) -> str:
    # zipfile truncates a name at a zero byte, so the original name is checked as well.
    if is_unsafe(member.filename) or is_unsafe(member.orig_filename):
        return UNSAFE
    mode = member.external_attr >> 16
    if member.create_system == _UNIX and stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
        return LINK
    if member.flag_bits & _ENCRYPTED:
        return "encrypted in the archive"
    return "file too large" if member.file_size > MAX_FILE_BYTES else ""
