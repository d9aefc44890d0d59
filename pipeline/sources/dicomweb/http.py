"""HTTP for DICOMweb: one kept-alive session a process, bounded answers, waiting while the server is away."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

from pipeline.errors import DataError
from pipeline.manifest.web_access import WebAccess

if TYPE_CHECKING:
    import requests

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
BODY_SECONDS = 1800.0
"""Longest that one answer may take; a server that drips bytes would hold ingest for ever."""

QUICK_SECONDS = 5.0
MAX_WAIT_SECONDS = 15.0
_BLOCK = 2**18
_REDIRECTS = 5
_AWAY = {408, 425, 429, 502, 503, 504}
"""Answers that pass: the server is overloaded, starting or behind a proxy that does not reach it."""
_FAULT_TRIES = 4

T = TypeVar("T")


class CutError(Exception):
    """An answer that is worth asking for again: cut short, or mangled on its way."""


class TooLargeError(Exception):
    """An answer beyond its bound; nothing of it is kept."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `body` is empty unless the status is 200."""

    status: int
    content_type: str
    body: bytearray


class WebServer:
    """One DICOMweb service.

    Args:
        url: its address without a slash at the end, such as `http://127.0.0.1:8042/dicom-web`.
        access: credentials (by the names of their variables), certificates, patience.
    """

    def __init__(self, url: str, access: WebAccess) -> None:
        self._url, self._access = url, access
        parts = urlsplit(url)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self._session: requests.Session | None = None
        self._process = 0

    def get(
        self,
        path: str,
        parameters: Mapping[str, str | int],
        *,
        accept: str,
        limit: int,
        parse: Callable[[Answer], T],
    ) -> T:
        """Ask until there is an answer, and return what `parse` makes of it.

        Args:
            path: below the service's address, starting with a slash.
            parameters: of the query.
            accept: media types.
            limit: most bytes of a body.
            parse: called with the answer; raises `CutError` for one that has to be fetched again.

        Raises:
            TooLargeError: the body is larger than `limit`.
            DataError: no answer within the source's `retry_seconds`, wrong credentials or certificate, or a
                redirect to another server.
        """
        patience = _Patience(self.origin, self._access.retry_seconds)
        faults = 0
        while True:
            try:
                answer, pause = self._ask(path, parameters, accept, limit)
                faults += answer.status == 500
                if answer.status in _AWAY or (answer.status == 500 and faults < _FAULT_TRIES):
                    raise _AwayError(f"HTTP {answer.status}", pause)
                found = parse(answer)
            except CutError:
                patience.wait("its answer was cut short")
            except _AwayError as away:
                patience.wait(away.reason, away.pause)
            else:
                patience.over()
                return found

    def _ask(
        self, path: str, parameters: Mapping[str, str | int], accept: str, limit: int
    ) -> tuple[Answer, float]:
        """Return one answer and for how many seconds the server asks to be left alone."""
        import requests
        import urllib3

        url, sent = self._url + path, dict(parameters)
        try:
            for _ in range(_REDIRECTS):
                with self._open(url, sent, accept) as response:
                    if response.status_code not in {301, 302, 303, 307, 308}:
                        self._refuse_strangers(response.status_code)
                        body = _body(response, limit) if response.status_code == 200 else bytearray()
                        kind = response.headers.get("Content-Type", "")
                        pause = _seconds(response.headers.get("Retry-After", ""))
                        return Answer(response.status_code, kind, body), pause
                    url, sent = self._same_server(url, response.headers.get("Location", "")), {}
        except requests.exceptions.SSLError:
            raise DataError(
                "the server's certificate is not trusted",
                field="sources.url",
                value=self.origin,
                remedy="Name the certificate of its authority as `ca_file` in the manifest.",
            ) from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError):
            raise self._unusable("not an address that can be asked", "Correct `url`.") from None
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _AwayError(_cause(error)) from None
        raise self._unusable("the server redirects in a circle", "Name the final address as `url`.")

    def _open(self, url: str, parameters: Mapping[str, str | int], accept: str) -> requests.Response:
        # Pixels hardly shrink, and packing them made a local Orthanc 1.10 more than 4 times slower.
        return self._connected().get(
            url,
            params=parameters,
            headers={"Accept": accept, "Accept-Encoding": "identity"},
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            verify=self._access.ca_file or True,
            allow_redirects=False,
            stream=True,
        )

    def _connected(self) -> requests.Session:
        """Return this process's session: a forked one must not share the sockets of its parent."""
        import requests

        if self._session is None or self._process != os.getpid():
            value = self._access.authorization()

            def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
                if value:
                    request.headers["Authorization"] = value
                return request

            self._session, self._process = requests.Session(), os.getpid()
            # Set even where there is nothing to send: otherwise a .netrc of the user would be taken.
            self._session.auth = authorize
            # requests would read a redirect to its end even where it is not to follow it.
            self._session.get_redirect_target = lambda resp: None  # type: ignore[method-assign]
        return self._session

    def _refuse_strangers(self, status: int) -> None:
        if status in {401, 403}:
            raise DataError(
                f"the server refuses these credentials (HTTP {status})",
                field="sources.url",
                value=self.origin,
                remedy="Check the variables that the manifest names as user and password, or token, and "
                "whether that account may search and retrieve.",
            )

    def _same_server(self, url: str, location: str) -> str:
        try:
            target = urljoin(url, location)
            parts = urlsplit(target)
            same = location and f"{parts.scheme}://{parts.netloc}" == self.origin
        except ValueError:
            same = False
        if not same:
            raise self._unusable(
                "the server redirects to another one, which is not followed",
                "Name the address that answers itself as `url`.",
            )
        return target

    def _unusable(self, problem: str, remedy: str) -> DataError:
        return DataError(problem, field="sources.url", value=self.origin, remedy=remedy)


class _AwayError(Exception):
    """The server does not answer now, or says that it cannot."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.pause = reason, pause


class _Patience:
    """Waits longer and longer between the tries of one request, until its time is up.

    The first try after a quick failure comes at once and in silence: a server closes idle connections, and
    one may be closed in the moment in which it is used.
    """

    def __init__(self, origin: str, seconds: float) -> None:
        self._origin, self._seconds = origin, seconds
        self._began, self._until = time.monotonic(), 0.0
        self._failures, self._told = 0, False

    def wait(self, reason: str, pause: float = 0.0) -> None:
        self._failures += 1
        now = time.monotonic()
        if self._failures == 1:
            self._until = now + self._seconds
            if now - self._began < QUICK_SECONDS:
                time.sleep(min(pause, self._seconds))
                return
        if now >= self._until:
            raise DataError(
                f"the DICOMweb server does not answer ({reason})",
                field="sources.url",
                value=self._origin,
                remedy="Run the same command again once it does: finished scans are kept. `retry_seconds` "
                "in the manifest is how long ingest waits.",
            )
        if not self._told:
            self._told = True
            logger.warning(
                "the DICOMweb server %s is away (%s): ingest waits up to %.0f s for it",
                self._origin,
                reason,
                self._seconds,
            )
        growing = min(0.25 * 2 ** min(max(self._failures - 2, 0), 10), MAX_WAIT_SECONDS)
        time.sleep(min(max(pause, growing * random.uniform(0.5, 1.0)), self._until - now))

    def over(self) -> None:
        if self._told:
            logger.warning("the DICOMweb server %s answers again", self._origin)


def _body(response: requests.Response, limit: int) -> bytearray:
    """Read a body, unpacked if it is compressed against our wish, no further than `limit`."""
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced[:20]) > limit:
        raise TooLargeError
    body, until = bytearray(), time.monotonic() + BODY_SECONDS
    # What has arrived, not a full block: a dripping server comes by the clock below with every few bytes.
    while block := response.raw.read1(_BLOCK, decode_content=True):
        body += block
        if len(body) > limit:
            raise TooLargeError
        if time.monotonic() > until:
            raise _AwayError("its answer never ends")
    return body


def _seconds(text: str) -> float:
    """Return the seconds of a Retry-After header (RFC 9110, section 10.2.3), 0 if it says none."""
    if text.strip().isdigit():
        return float(text.strip()[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _cause(error: Any) -> str:
    """Name a failure; the exception's own text holds the address asked for, and so a scan's UIDs."""
    import requests

    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy is not reachable"
    if isinstance(error, requests.exceptions.ConnectTimeout | requests.exceptions.ReadTimeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "not reachable"
    return "the connection was cut"
