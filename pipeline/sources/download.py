"""Fetching a published file once: with a progress bar, resumed where it was cut, checked against its md5."""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path

from pipeline.errors import DataError, StorageError
from pipeline.progress import track
from pipeline.storage import (
    cache_directory,
    free_bytes,
    make_private_directory,
    storage_errors,
    sync_directory,
)

TIMEOUT_SECONDS = 60.0
TRIES = 5
MAX_BYTES = 64 * 2**30
_BLOCK = 2**18


def downloaded_path(md5: str, name: str) -> Path:
    """Return where a published file lies in the cache once it was fetched.

    Args:
        md5: published md5 of the whole file.
        name: file name in the cache.
    """
    return cache_directory() / "downloads" / md5[:12] / name


def fetch(url: str, md5: str, name: str, *, wait_seconds: float = 2.0) -> Path:
    """Return the path of a published file in the cache, fetching what is missing of it.

    An interrupted download leaves `<name>.part`, and the next call goes on behind its last byte where
    the server can (HTTP Range); a cut connection is tried again a few times.

    Args:
        url: http or https address.
        md5: published md5 of the whole file; it tells a right file from a wrong one, no more.
        name: file name in the cache.
        wait_seconds: pause before the first retry, doubled each time.

    Raises:
        DataError: the server cannot be reached, or the file has another md5.
        StorageError: not enough space.
    """
    target = downloaded_path(md5, name)
    folder, part = make_private_directory(target.parent), target.with_name(f"{name}.part")
    if target.is_file() and _md5(target) == md5:
        return target
    for attempt in range(TRIES):
        try:
            _go_on(url, part)
            break
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            given_up = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if given_up or attempt == TRIES - 1:
                raise DataError(
                    f"the download failed ({_cause(error)})",
                    field="download.url",
                    value=url,
                    remedy="Check the network and run again (it goes on from there), or give a local path.",
                ) from error
            time.sleep(wait_seconds * 2**attempt)
    if _md5(part) != md5:
        part.unlink(missing_ok=True)
        raise DataError(
            "the downloaded file does not have the published md5 and was removed",
            field="download.md5",
            value=md5,
            remedy="Run again; if it stays, the file at the address has changed: correct the manifest.",
        )
    part.replace(target)
    sync_directory(folder)
    return target


def _go_on(url: str, part: Path) -> None:
    """Fetch the bytes behind the end of `part`; raise if the connection ends too early."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            return  # Nothing lies behind our last byte: complete (the md5 decides) or wrong.
        raise
    with response:
        resumed = response.status == 206
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else 0
        if total > MAX_BYTES:
            raise DataError("the file is larger than expected", field="download.url", value=url)
        if total - have > free_bytes(part.parent):
            raise StorageError(
                "no space left for the download",
                field=str(part.parent),
                remedy="Free space, or set PHOSPHOR_CACHE.",
            )
        with (
            storage_errors(part),
            part.open("ab" if resumed else "wb") as stream,
            track("download", max(total, 1), done=have, unit="bytes") as progress,
        ):
            while block := response.read(_BLOCK):
                have += len(block)
                if have > MAX_BYTES:
                    raise DataError("the file is larger than expected", field="download.url", value=url)
                stream.write(block)
                progress.update(len(block))
        if total and have < total:
            raise http.client.IncompleteRead(b"", total - have)


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _cause(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    return "the connection was cut" if isinstance(error, http.client.HTTPException) else "not reachable"
