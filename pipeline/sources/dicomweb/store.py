"""A DICOMweb server as a store: instances listed by QIDO-RS, fetched as they are stored by WADO-RS."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import DataError, ManifestError, ScanRefusedError
from pipeline.manifest.web_access import WebAccess
from pipeline.sources.dicomweb.http import Answer, CutError, TooLargeError, WebServer
from pipeline.sources.dicomweb.query import PAGE_SIZE, Query
from pipeline.sources.stores.base import MAX_FILE_BYTES, Entry

logger = logging.getLogger(__name__)

_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
NO_STUDY = "2.25.0"
"""The UID of no study: looking for it opens no file, which a broken one could spoil."""
_FRAME_BYTES = 2**16
"""What may stand around the one part: boundaries and its header."""
_LINE_BYTES = 2**13
_UID_WITHIN = 2**16
"""The file meta information and the SOP common attributes lie this far in front."""


class DicomWebStore:
    """The instances of a DICOMweb server that match a query.

    An entry's name is `study/series/instance`, its stamp the instance UID: what is stored under a UID may not
    change (PS3.5, section 9).

    Args:
        url: address of the service.
        access: query, credentials by reference, certificates, patience.
        page_size: rows of a search that are asked for at once.
    """

    def __init__(self, url: str, access: WebAccess, page_size: int = PAGE_SIZE) -> None:
        self._url, self._access, self._page_size = url, access, page_size
        self._server = WebServer(url.rstrip("/"), access)

    def entries(self) -> Iterator[Entry]:
        """Yield every matching instance, sorted.

        Raises:
            ManifestError: a filter is no DICOM attribute, a variable is not set, or `ca_file` is missing.
            DataError: the server does not answer, refuses, or answers with something else.
        """
        if self._access.ca_file and not Path(self._access.ca_file).is_file():
            raise ManifestError("no such file", field="sources.ca_file", remedy="Correct its path.")
        if not is_private_channel(self._url):
            logger.warning(
                "%s is not encrypted: scans and credentials can be read on the way", self._server.origin
            )
        yield from Query(self._server, self._access.query, self._page_size).entries()

    def read(self, name: str) -> bytes:
        """Return the bytes of an instance as the server stores it.

        Raises:
            ScanRefusedError: it is gone, too large, not given, or another one.
            DataError: the server is away for longer than `retry_seconds`, or refuses the credentials.
        """
        study, series, uid = name.split("/")
        try:
            status, data = self._server.get(
                f"/studies/{study}/series/{series}/instances/{uid}",
                {},
                accept=_ACCEPT,
                limit=MAX_FILE_BYTES + _FRAME_BYTES,
                parse=_instance,
            )
        except TooLargeError:
            raise ScanRefusedError("file too large") from None
        if status in {404, 410}:
            raise ScanRefusedError("gone from the server")
        if status == 500:
            self._check_health()
        if status != 200:
            raise ScanRefusedError(f"the server does not give it (HTTP {status})")
        if not data:
            raise ScanRefusedError("empty file")
        if len(data) > MAX_FILE_BYTES:
            raise ScanRefusedError("file too large")
        if uid.encode() not in data[:_UID_WITHIN]:
            raise ScanRefusedError("the server gave another instance")
        return data

    def _check_health(self) -> None:
        """Tell a fault of one instance from a fault of the whole server, which must not refuse scans.

        Raises:
            DataError: the server does not answer a search that finds nothing either.
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
                remedy="Look into its log, then run the same command again: finished scans are kept.",
            )


def is_private_channel(url: str) -> bool:
    """Tell whether nobody on the way can read along: encrypted, or on this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _instance(answer: Answer) -> tuple[int, bytes]:
    """Return the status and, of a good answer, the instance in it (RFC 2387, PS3.18, section 8.6.1.2)."""
    if answer.status != 200:
        return answer.status, b""
    header = Message()
    header["Content-Type"] = answer.content_type.replace("\r", "").replace("\n", "")
    kind = header.get_content_type()
    if kind == "application/dicom":
        return 200, bytes(answer.body)
    if kind != "multipart/related":
        raise ScanRefusedError("the server's answer is no DICOM file")
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= 200 or not boundary.isascii():
        raise ScanRefusedError("the server's answer has no boundary")
    return 200, only_part(answer.body, boundary.encode())


def only_part(body: bytearray, boundary: bytes) -> bytes:
    """Return the content of the one part of a multipart body (RFC 2046, section 5.1).

    Raises:
        CutError: its end is missing.
        ScanRefusedError: it is no multipart body, its part is no DICOM file, or there are several.
    """
    opening, closing = b"--" + boundary, b"\r\n--" + boundary
    at = 0 if body.startswith(opening) else body.find(closing, 0, _FRAME_BYTES) + 2
    if at == 1:
        raise CutError if len(body) < _FRAME_BYTES else ScanRefusedError("the server's answer has no part")
    line = body.find(b"\r\n", at + len(opening), at + len(opening) + _LINE_BYTES)
    blank = body.find(b"\r\n\r\n", line, line + _LINE_BYTES) if line >= 0 else -1
    # The line break before the closing boundary belongs to it; of an empty part it is also the blank line's.
    end = body.find(closing, blank + 2) if blank >= 0 else -1
    if end < 0 or len(body) < end + len(closing) + 2:
        raise CutError
    header = bytes(body[line:blank]).lower()
    if b"content-type:" in header and b"application/dicom" not in header and b"octet-stream" not in header:
        raise ScanRefusedError("the server's answer is no DICOM file")
    if body[end + len(closing) : end + len(closing) + 2] != b"--":
        raise ScanRefusedError("the server's answer holds several parts")
    return bytes(memoryview(body)[blank + 4 : max(end, blank + 4)])
