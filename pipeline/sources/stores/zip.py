"""A zip archive, read member by member in place: nothing is unpacked to disk."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import DataError, ScanRefusedError
from pipeline.sources.stores.base import (
    HIDDEN,
    LINK,
    MAX_FILE_BYTES,
    MAX_MEMBERS,
    MAX_RATIO,
    UNSAFE,
    Entry,
    is_hidden,
    is_unsafe,
)

_ENCRYPTED = 0x1
_UNIX = 3
_SLACK_BYTES = 2**20


class ZipStore:
    """The members of a zip archive.

    Members that climb out of the archive, links, doubled names and encrypted members are listed with their
    reason of refusal. An archive that claims to unpack to more than deflate can hold (overlapping members)
    is refused as a whole.

    Raises:
        DataError: not a zip archive, too many members, or a bomb.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise DataError(
                "not a readable zip archive", field="sources", value=str(path), remedy="Pack it again."
            ) from error
        members = self._archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if len(members) > MAX_MEMBERS or unpacked > MAX_RATIO * path.stat().st_size + _SLACK_BYTES:
            self._archive.close()
            raise DataError(
                "the archive claims to hold more than an honest one can",
                field="sources",
                value=str(path),
                remedy="Unpack it with care and name the folder.",
            )
        self._entries = _listed(members)

    def entries(self) -> Iterator[Entry]:
        """Yield every member, sorted; its checksum is part of the stamp, so repacking changes nothing."""
        yield from self._entries

    def read(self, name: str) -> bytes:
        """Return the bytes of a member; the checksum is verified on the way."""
        try:
            with self._archive.open(name) as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
        except KeyError as error:
            raise ScanRefusedError("file missing") from error
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
            raise ScanRefusedError("archive member damaged") from error
        # Other decompressors (bzip2, lzma) raise their own kinds.
        except Exception as error:
            raise ScanRefusedError("archive member damaged") from error
        if len(data) > MAX_FILE_BYTES:
            raise ScanRefusedError("file too large")
        if not data:
            raise ScanRefusedError("empty file")
        return data


def _listed(members: list[zipfile.ZipInfo]) -> list[Entry]:
    counts: dict[str, int] = {}
    for member in members:
        counts[member.filename] = counts.get(member.filename, 0) + 1
    found: dict[str, Entry] = {}
    for member in members:
        name = member.filename
        if member.is_dir():
            continue
        refusal = "twice in the archive" if counts[name] > 1 else _refusal(member)
        skipped = HIDDEN if is_hidden(name) else LINK if refusal == LINK else ""
        found[name] = Entry(
            name, member.file_size, f"{member.CRC:08x}", "" if skipped == HIDDEN else refusal, skipped
        )
    return [found[name] for name in sorted(found)]


def _refusal(member: zipfile.ZipInfo) -> str:
    # zipfile itself cuts a name at a zero byte, so the original name is looked at.
    if is_unsafe(member.filename) or is_unsafe(member.orig_filename):
        return UNSAFE
    mode = member.external_attr >> 16
    if member.create_system == _UNIX and stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
        return LINK
    if member.flag_bits & _ENCRYPTED:
        return "encrypted in the archive"
    return "file too large" if member.file_size > MAX_FILE_BYTES else ""
