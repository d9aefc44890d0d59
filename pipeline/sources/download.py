"""Download of published files into the cache, with resumption and an md5 check."""

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
    """Return the path of a downloaded file in the cache.

    Args:
        md5: published md5 of the whole file.
        name: file name in the cache.
    """
    return cache_directory() / "downloads" / md5[:12] / name


def fetch(url: str, md5: str, name: str, *, wait_seconds: float = 2.0) -> Path:
    """Return the path of a published file in the cache, downloading it if necessary.

    An interrupted download leaves `<name>.part`. The next call resumes it if the server supports HTTP Range
    requests. A failed connection is retried.

    Args:
        url: http or https address.
        md5: published md5 of the whole file; it detects errors, not manipulation.
        name: file name in the cache.
        wait_seconds: pause before the first retry, doubled each time.

    Raises:
        DataError: the server cannot be reached, the file is too large, or it has another md5.
        StorageError: not enough space.
    """
    target = downloaded_path(md5, name)
    folder, part = make_private_directory(target.parent), target.with_name(f"{name}.part")
    if target.is_file() and _md5(target) == md5:
        return target
    for attempt in range(TRIES):
        try:
            _resume(url, part)
            break
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            permanent = isinstance(error, urllib.error.HTTPError) and not _may_pass(error.code)
            if permanent or attempt == TRIES - 1:
                raise DataError(
                    f"the download failed ({_cause(error)})",
                    field="download.url",
                    value=url,
                    remedy="Check the network and run again to resume it, or give a local path.",
                ) from error
            time.sleep(wait_seconds * 2**attempt)
    if _md5(part) != md5:
        part.unlink(missing_ok=True)
        raise DataError(
            "the downloaded file does not have the published md5 and was removed",
            field="download.md5",
            value=md5,
            remedy="Run again. If the error persists, the published file has changed: correct the manifest.",
        )
    part.replace(target)
    sync_directory(folder)
    return target


def _resume(url: str, part: Path) -> None:
    """Download the bytes that `part` lacks; raise an error if the connection ends too early."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            return  # No bytes are left; fetch() checks the md5.
        raise
    with response:
        resumed = response.status == 206
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else 0
        if total > MAX_BYTES:
            raise DataError("the file is too large", field="download.url", value=url)
        if total - have > free_bytes(part.parent):
            raise StorageError(
                "no space left for the download",
                field=str(part.parent),
                remedy="Free space, or set PHOSPHOR_CACHE to a folder on another disk.",
            )
        with (
            storage_errors(part),
            part.open("ab" if resumed else "wb") as stream,
            track("download", max(total, 1), done=have, unit="bytes") as progress,
        ):
            while block := response.read(_BLOCK):
                have += len(block)
                if have > MAX_BYTES:
                    raise DataError("the file is too large", field="download.url", value=url)
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


def _may_pass(status: int) -> bool:
    """Return whether an HTTP error may be gone later: the server's own, a timeout, too many requests."""
    return status >= 500 or status in (408, 425, 429)
