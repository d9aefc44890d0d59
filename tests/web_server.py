"""A DICOMweb server that does whatever a test says: hostile, broken, slow or gone."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pipeline.manifest.web_access import WebAccess
from pipeline.sources.dicomweb.store import DicomWebStore

UID = "1.2.840.99.7"
NAME = f"1.2.3/1.2.4/{UID}"
DATA = b"\0" * 128 + b"DICM" + UID.encode() + bytes(range(256)) * 40
MULTIPART = 'multipart/related; type="application/dicom"; boundary=cut'


def row(study: str = "1.2.3", series: str = "1.2.4", uid: str = UID, **more: str) -> dict[str, Any]:
    found = {"0020000D": study, "0020000E": series, "00080018": uid, **more}
    return {tag: {"vr": "UI", "Value": [value]} for tag, value in found.items()}


def multipart(data: bytes, *, kind: str = "application/dicom", end: bytes = b"\r\n--cut--\r\n") -> bytes:
    return b"--cut\r\nContent-Type: " + kind.encode() + b"\r\n\r\n" + data + end


class Handler(BaseHTTPRequestHandler):
    """Lets the test answer; counts what was asked."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.seen_headers.append(dict(self.headers))
        try:
            self.server.answer(self)
        except (BrokenPipeError, ConnectionResetError):
            self.server.hung_up.set()

    def give(self, status: int, body: bytes = b"", kind: str = "application/dicom+json", **more: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Type": kind, "Content_Length": str(len(body)), **more}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def give_rows(self, rows: list[dict[str, Any]]) -> None:
        self.give(200, json.dumps(rows).encode())

    def parameter(self, name: str) -> int:
        return int(parse_qs(urlsplit(self.path).query)[name][0])


class Server(ThreadingHTTPServer):
    """A server that does what the test says."""

    daemon_threads = True

    def __init__(self, answer: Callable[[Handler], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.asked: list[str] = []
        self.seen_headers: list[dict[str, str]] = []
        self.hung_up = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/dicom-web"

    def store(self, *, retry_seconds: float = 0.0, page_size: int = 10, **query: str) -> DicomWebStore:
        return DicomWebStore(
            self.url, WebAccess(tuple(query.items()), retry_seconds=retry_seconds), page_size
        )


def endless(handler: Handler, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", MULTIPART)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    block = b"x" * 65536
    while True:
        handler.wfile.write(b"%x\r\n" % len(block) + block + b"\r\n")


def cut(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", MULTIPART)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(multipart(DATA)[:500])
    handler.close_connection = True
