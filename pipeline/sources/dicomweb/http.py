"""HTTP for DICOMweb: one session per process, limited response sizes, retries while the server is down."""

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
"""Time limit of one response body in seconds; a server that sends single bytes would block ingest."""

QUICK_SECONDS = 5.0
MAX_WAIT_SECONDS = 15.0
_BLOCK = 2**18
_MAX_REQUESTS = 5
"""Largest number of requests along a chain of redirects."""
_TEMPORARY = {408, 425, 429, 502, 503, 504}
"""Status codes of a server that is overloaded, starting, or unreachable for its proxy."""
_MAX_500 = 4
"""Number of responses with status 500 after which the status is final."""

T = TypeVar("T")


class TruncatedError(Exception):
    """A response is truncated or corrupt and has to be requested again."""


class TooLargeError(Exception):
    """A response body exceeds its size limit."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response. `body` is empty unless the status is 200."""

    status: int
    content_type: str
    body: bytearray


class WebServer:
    """One DICOMweb service.

    Args:
        url: its address without a trailing slash, such as `http://127.0.0.1:8042/dicom-web`.
        access: references to credentials, certificates, and the retry time.
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
        """Send a request until it is answered, and return the result of `parse`.

        Args:
            path: path below the service's address, with a leading slash.
            parameters: query parameters.
            accept: accepted media types.
            limit: largest size of the body in bytes.
            parse: function of the response; it raises `TruncatedError` to request the response again.

        Raises:
            TooLargeError: the body is larger than `limit`.
            DataError: the server did not answer within `retry_seconds`, refuses the credentials, has an
                untrusted certificate, or redirects to another server.
        """
        retries = _Retries(self.origin, self._access.retry_seconds)
        num_500 = 0
        while True:
            try:
                answer, pause = self._request(path, parameters, accept, limit)
                num_500 += answer.status == 500
                if answer.status in _TEMPORARY or (answer.status == 500 and num_500 < _MAX_500):
                    raise _UnavailableError(f"HTTP {answer.status}", pause)
                found = parse(answer)
            except TruncatedError:
                retries.wait("its response was truncated")
            except _UnavailableError as error:
                retries.wait(error.reason, error.pause)
            else:
                retries.log_recovery()
                return found

    def _request(
        self, path: str, parameters: Mapping[str, str | int], accept: str, limit: int
    ) -> tuple[Answer, float]:
        """Return one response, and the number of seconds to wait that its Retry-After header names."""
        import requests
        import urllib3

        url, sent = self._url + path, dict(parameters)
        try:
            for _ in range(_MAX_REQUESTS):
                with self._open(url, sent, accept) as response:
                    if response.status_code not in {301, 302, 303, 307, 308}:
                        self._check_authorized(response.status_code)
                        body = _read_body(response, limit) if response.status_code == 200 else bytearray()
                        kind = response.headers.get("Content-Type", "")
                        pause = _retry_after(response.headers.get("Retry-After", ""))
                        return Answer(response.status_code, kind, body), pause
                    url, sent = self._redirected(url, response.headers.get("Location", "")), {}
        except requests.exceptions.SSLError:
            raise self._unusable(
                "the server's certificate is not trusted",
                "Set `ca_file` in the manifest to the certificate of its certificate authority.",
            ) from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError):
            raise self._unusable("not a valid HTTP address", "Correct `url`.") from None
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _UnavailableError(_cause(error)) from None
        raise self._unusable("the server redirects too often", "Set `url` to the final address.")

    def _open(self, url: str, parameters: Mapping[str, str | int], accept: str) -> requests.Response:
        # Compression hardly shrinks pixels and made a local Orthanc 1.10 more than 4 times slower.
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
        """Return the session of this process; a forked process must not share the sockets of its parent."""
        import requests

        if self._session is None or self._process != os.getpid():
            value = self._access.authorization()

            def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
                if value:
                    request.headers["Authorization"] = value
                return request

            self._session, self._process = requests.Session(), os.getpid()
            # Set even without credentials; otherwise requests would read the user's .netrc.
            self._session.auth = authorize
            # requests reads the body of a redirect even if it does not follow the redirect.
            self._session.get_redirect_target = lambda resp: None  # type: ignore[method-assign]
        return self._session

    def _check_authorized(self, status: int) -> None:
        if status in {401, 403}:
            raise self._unusable(
                f"the server refuses the credentials (HTTP {status})",
                "Check the environment variables that the manifest names as `user` and `password`, or as "
                "`token`, and whether the account may search and retrieve.",
            )

    def _redirected(self, url: str, location: str) -> str:
        """Return the address that a redirect leads to, which must be on the same server."""
        try:
            target = urljoin(url, location)
            parts = urlsplit(target)
            same = location and f"{parts.scheme}://{parts.netloc}" == self.origin
        except ValueError:
            same = False
        if not same:
            raise self._unusable(
                "the server redirects to another server, which is not followed",
                "Set `url` to the final address.",
            )
        return target

    def _unusable(self, problem: str, remedy: str) -> DataError:
        return DataError(problem, field="sources.url", value=self.origin, remedy=remedy)


class _UnavailableError(Exception):
    """The server does not answer, or reports a temporary failure."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.pause = reason, pause


class _Retries:
    """Waits with exponential backoff between the attempts of one request, up to a time limit.

    The first retry after a quick failure follows at once and is not logged, because a server may close an
    idle connection at the moment of its use.
    """

    def __init__(self, origin: str, seconds: float) -> None:
        self._origin, self._seconds = origin, seconds
        self._start, self._deadline = time.monotonic(), 0.0
        self._failures, self._warned = 0, False

    def wait(self, reason: str, pause: float = 0.0) -> None:
        self._failures += 1
        now = time.monotonic()
        if self._failures == 1:
            self._deadline = now + self._seconds
            if now - self._start < QUICK_SECONDS:
                time.sleep(min(pause, self._seconds))
                return
        if now >= self._deadline:
            raise DataError(
                f"the DICOMweb server does not answer ({reason})",
                field="sources.url",
                value=self._origin,
                remedy="Run the same command again when the server answers; finished scans are kept. Raise "
                "`retry_seconds` in the manifest to wait longer.",
            )
        if not self._warned:
            self._warned = True
            logger.warning(
                "the DICOMweb server %s is unavailable (%s): ingest waits up to %.0f s for it",
                self._origin,
                reason,
                self._seconds,
            )
        backoff = min(0.25 * 2 ** min(max(self._failures - 2, 0), 10), MAX_WAIT_SECONDS)
        time.sleep(min(max(pause, backoff * random.uniform(0.5, 1.0)), self._deadline - now))

    def log_recovery(self) -> None:
        if self._warned:
            logger.warning("the DICOMweb server %s answers again", self._origin)


def _read_body(response: requests.Response, limit: int) -> bytearray:
    """Return a body, decompressed if the server compressed it in spite of the request."""
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced[:20]) > limit:
        raise TooLargeError
    body, deadline = bytearray(), time.monotonic() + BODY_SECONDS
    # `read1` does not wait for a full block, so the deadline is checked even if single bytes arrive.
    while block := response.raw.read1(_BLOCK, decode_content=True):
        body += block
        if len(body) > limit:
            raise TooLargeError
        if time.monotonic() > deadline:
            raise _UnavailableError(f"its response took longer than {BODY_SECONDS:g} s")
    return body


def _retry_after(text: str) -> float:
    """Return the seconds of a Retry-After header (RFC 9110, section 10.2.3); 0 if absent or invalid."""
    if text.strip().isdigit():
        return float(text.strip()[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _cause(error: Any) -> str:
    """Return the cause of a failed request, without the exception's text, whose address holds UIDs."""
    import requests

    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy is not reachable"
    if isinstance(error, requests.exceptions.ConnectTimeout | requests.exceptions.ReadTimeout):
        return "timeout"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "not reachable"
    return "the connection was lost"
