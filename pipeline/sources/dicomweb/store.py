"""A DICOMweb server as a store: QIDO-RS lists its instances, WADO-RS retrieves them as they are stored."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import DataError, ManifestError, ScanRefusedError
from pipeline.manifest.web_access import WebAccess
from pipeline.sources.dicomweb.http import Answer, TooLargeError, TruncatedError, WebServer
from pipeline.sources.dicomweb.query import PAGE_SIZE, Query
from pipeline.sources.stores.base import MAX_FILE_BYTES, Entry

logger = logging.getLogger(__name__)

_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
NO_STUDY = "2.25.0"
"""A UID that no study has: a search for it reads no file, which might be corrupt."""
_MAX_ENVELOPE_BYTES = 2**16
"""Largest size of the multipart boundaries and headers around an instance."""
_MAX_LINE_BYTES = 2**13
_UID_WITHIN = 2**16
"""Number of leading bytes that hold the file meta information and the SOP common attributes."""


class DicomWebStore:
    """The instances of a DICOMweb server that match a query.

    An entry's name is `study/series/instance`. Its stamp is the instance UID, because the content of a UID
    may not change (PS3.5, section 9).

    Args:
        url: address of the service.
        access: query, references to credentials, certificates, and the retry time.
        page_size: number of rows requested per page of a search.
    """

    def __init__(self, url: str, access: WebAccess, page_size: int = PAGE_SIZE) -> None:
        self._url, self._access, self._page_size = url, access, page_size
        self._server = WebServer(url.rstrip("/"), access)

    def entries(self) -> Iterator[Entry]:
        """Yield every matching instance, sorted by name.

        Raises:
            ManifestError: a filter is not a DICOM attribute, an environment variable is not set, or `ca_file`
                does not exist.
            DataError: the server does not answer, refuses the credentials, or returns no valid result.
        """
        if self._access.ca_file and not Path(self._access.ca_file).is_file():
            raise ManifestError("no such file", field="sources.ca_file", remedy="Correct its path.")
        if not is_private_channel(self._url):
            logger.warning("%s is not encrypted: others may read scans and credentials", self._server.origin)
        yield from Query(self._server, self._access.query, self._page_size).entries()

    def read(self, name: str) -> bytes:
        """Return the bytes of an instance as the server stores it.

        Raises:
            ScanRefusedError: the instance no longer exists, is empty or too large, or the server returns an
                error or another instance for it.
            DataError: the server is unavailable for longer than `retry_seconds`, or refuses the credentials.
        """
        study, series, uid = name.split("/")
        try:
            status, data = self._server.get(
                f"/studies/{study}/series/{series}/instances/{uid}",
                {},
                accept=_ACCEPT,
                limit=MAX_FILE_BYTES + _MAX_ENVELOPE_BYTES,
                parse=_instance,
            )
        except TooLargeError:
            raise ScanRefusedError("file too large") from None
        if status in {404, 410}:
            raise ScanRefusedError("no longer on the server")
        if status == 500:
            self._check_health()
        if status != 200:
            raise ScanRefusedError(f"the server does not return the instance (HTTP {status})")
        if not data:
            raise ScanRefusedError("empty file")
        if len(data) > MAX_FILE_BYTES:
            raise ScanRefusedError("file too large")
        if uid.encode() not in data[:_UID_WITHIN]:
            raise ScanRefusedError("the server returned another instance")
        return data

    def _check_health(self) -> None:
        """Check that only one instance fails: a failure of the whole server must not refuse scans.

        Raises:
            DataError: the server also fails at a search without results.
        """
        status = self._server.get(
            "/studies",
            {"StudyInstanceUID": NO_STUDY, "limit": 1},
            accept="application/dicom+json",
            limit=2**20,
            parse=lambda answer: answer.status,
        )
        if status not in {200, 204}:
            raise DataError(
                f"the DICOMweb server fails (HTTP {status})",
                field="sources.url",
                value=self._server.origin,
                remedy="Read its log, then run the same command again; finished scans are kept.",
            )


def is_private_channel(url: str) -> bool:
    """Return whether a connection is encrypted, or stays on this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _instance(answer: Answer) -> tuple[int, bytes]:
    """Return the status and, if it is 200, the instance (RFC 2387; PS3.18, section 8.6.1.2)."""
    if answer.status != 200:
        return answer.status, b""
    header = Message()
    header["Content-Type"] = answer.content_type.replace("\r", "").replace("\n", "")
    kind = header.get_content_type()
    if kind == "application/dicom":
        return 200, bytes(answer.body)
    if kind != "multipart/related":
        raise ScanRefusedError("the server's answer is not a DICOM file")
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= 200 or not boundary.isascii():
        raise ScanRefusedError("the server's answer has no boundary")
    return 200, only_part(answer.body, boundary.encode())


def only_part(body: bytearray, boundary: bytes) -> bytes:
    """Return the content of the only part of a multipart body (RFC 2046, section 5.1).

    Raises:
        TruncatedError: the end of the body is missing.
        ScanRefusedError: the body is not multipart, its part is not a DICOM file, or it has several parts.
    """
    opening, closing = b"--" + boundary, b"\r\n--" + boundary
    at = 0 if body.startswith(opening) else body.find(closing, 0, _MAX_ENVELOPE_BYTES) + 2
    if at == 1:
        if len(body) < _MAX_ENVELOPE_BYTES:
            raise TruncatedError
        raise ScanRefusedError("the server's answer has no part")
    line = body.find(b"\r\n", at + len(opening), at + len(opening) + _MAX_LINE_BYTES)
    blank = body.find(b"\r\n\r\n", line, line + _MAX_LINE_BYTES) if line >= 0 else -1
    # The line break before the closing boundary belongs to it. In an empty part it also ends the blank line.
    end = body.find(closing, blank + 2) if blank >= 0 else -1
    if end < 0 or len(body) < end + len(closing) + 2:
        raise TruncatedError
    header = bytes(body[line:blank]).lower()
    if b"content-type:" in header and b"application/dicom" not in header and b"octet-stream" not in header:
        raise ScanRefusedError("the server's answer is not a DICOM file")
    if body[end + len(closing) : end + len(closing) + 2] != b"--":
        raise ScanRefusedError("the server's answer has several parts")
    return bytes(memoryview(body)[blank + 4 : max(end, blank + 4)])
