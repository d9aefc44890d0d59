"""A tar archive as a store; a compressed archive is read from an unpacked copy in the cache."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import hmac
import lzma
import os
import tarfile
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from pipeline.errors import DataError, ScanRefusedError
from pipeline.identity import load_key
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
from pipeline.storage import atomic_path, cache_directory, free_bytes, make_private_directory

_COMPRESSED = (b"\x1f\x8b", b"BZ", b"\xfd7")
"""First two bytes of gzip, bzip2 and xz files."""
_BLOCK = 2**20
_SLACK_BYTES = 64 * 2**20


class TarStore:
    """The members of a tar archive (plain, gzip, bzip2 or xz).

    Links, devices and unsafe names are listed with the reason for refusal. Of several members with one name,
    the last counts, as in tar. A compressed archive has no random access, so it is decompressed once to a tar
    file in the private cache. `drop_unpacked` removes this copy.

    Raises:
        DataError: the file is not a tar archive, is damaged, has too many members, or unpacks to too much
            data.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as stream:
                compressed = stream.read(2) in _COMPRESSED
            plain = _unpacked(path) if compressed else path
            self._members = _members(plain)
            self._stream = plain.open("rb")
            self._reading = threading.Lock()
        except (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError, ValueError) as error:
            raise DataError(
                "not a readable tar archive, or truncated",
                field="sources",
                value=str(path),
                remedy="Copy or create the archive again.",
            ) from error

    def entries(self) -> Iterator[Entry]:
        """Yield every member, sorted by name; its stamp is its modification time."""
        for name in sorted(self._members):
            _, size, stamp, refusal = self._members[name]
            yield member_entry(name, size, stamp, refusal)

    def read(self, name: str) -> bytes:
        """Return the bytes of a member."""
        if name not in self._members:
            raise ScanRefusedError("file missing")
        offset, size, _, refusal = self._members[name]
        if refusal or size == 0:
            raise ScanRefusedError(refusal or "empty file")
        try:
            with self._reading:
                self._stream.seek(offset)
                data = self._stream.read(size)
        except OSError as error:
            raise ScanRefusedError("file unreadable") from error
        if len(data) != size:
            raise ScanRefusedError("archive member damaged")
        return data


def is_tar(path: Path) -> bool:
    """Return whether a file is a tar archive, compressed or not."""
    try:
        return tarfile.is_tarfile(path)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError):
        return False


def unpacked_path(path: Path) -> Path:
    """Return the path of the unpacked copy of a compressed archive in the cache, named by a keyed hash."""
    status = path.stat()
    text = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    name = hmac.new(load_key(), os.fsencode(text), hashlib.sha256).hexdigest()[:32]
    return cache_directory() / "unpacked" / f"{name}.tar"


def _unpacked(path: Path) -> Path:
    """Return the unpacked copy of a compressed archive; create it if it does not exist."""
    from pipeline.progress import track

    target = unpacked_path(path)
    if target.is_file():
        return target
    make_private_directory(target.parent)
    packed = path.stat().st_size
    written = done = 0
    with (
        path.open("rb") as raw,
        track("unpack archive", max(packed // _BLOCK, 1), unit="MiB") as progress,
        _decompressed(raw) as stream,
        atomic_path(target, private=True) as temporary,
        temporary.open("wb") as out,
    ):
        while block := stream.read(_BLOCK):
            written += len(block)
            _check_growth(written, packed, target)
            out.write(block)
            now = raw.tell() // _BLOCK
            progress.update(max(0, now - done))
            done = max(done, now)
    return target


def _decompressed(raw: BinaryIO) -> IO[bytes]:
    """Return the decompressed stream of a gzip, bzip2 or xz file."""
    start = raw.read(2)
    raw.seek(0)
    if start == b"\x1f\x8b":
        return gzip.open(raw, "rb")  # type: ignore[return-value]
    return bz2.open(raw, "rb") if start == b"BZ" else lzma.open(raw, "rb")


def _check_growth(written: int, packed: int, target: Path) -> None:
    if written > MAX_RATIO * packed + _SLACK_BYTES:
        raise DataError(
            "the archive unpacks to more data than its compression allows",
            field="sources",
            remedy="Unpack it with care, and name the folder in the manifest.",
        )
    if written % (256 * _BLOCK) < _BLOCK and free_bytes(target.parent) < 2**30:
        raise DataError(
            "too little space in the cache to unpack the archive",
            field="sources",
            remedy="Free space, set PHOSPHOR_CACHE to a larger disk, or unpack it and name the folder.",
        )


def _members(path: Path) -> dict[str, tuple[int, int, str, str]]:
    """Return name -> (offset, size, stamp, reason for refusal) of every member except folders."""
    members: dict[str, tuple[int, int, str, str]] = {}
    with path.open("rb") as raw:
        for member in _headers(raw):
            name = member.name.removeprefix("./")
            if member.isdir():
                continue
            if len(members) >= MAX_MEMBERS:
                raise DataError("too many files in the archive", field="sources", remedy="Split the archive.")
            members[name] = (member.offset_data, member.size, str(member.mtime), _refusal(member, name))
    return members


def _headers(raw: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of the members without keeping them: an archive may have a million."""
    with tarfile.open(fileobj=raw, mode="r:") as archive:
        while (member := archive.next()) is not None:
            yield member
            archive.members = []  # type: ignore[attr-defined]


def _refusal(member: tarfile.TarInfo, name: str) -> str:
    if is_unsafe(name) or is_unsafe(member.name):
        return UNSAFE
    if not member.isreg() or member.issparse():
        return LINK
    return "file too large" if member.size > MAX_FILE_BYTES else ""
