"""Downloads: resumed behind the last byte after a cut connection, checked against the md5."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.sources.download import fetch
from pipeline.storage import cache_directory

BODY = np.random.default_rng(0).bytes(700_000)
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves BODY; cuts the first `cuts` answers after 300,000 bytes."""

    cuts = 0
    ranges = True
    status = 200
    seen: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.seen.append(asked)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if start >= len(BODY):
            self.send_error(416)
            return
        rest = BODY[start:]
        self.send_response(206 if asked and self.server.ranges else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if self.server.cuts:
            self.server.cuts -= 1
            self.wfile.write(rest[:300_000])
            self.wfile.flush()
            self.connection.close()
            return
        self.wfile.write(rest)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("PHOSPHOR_CACHE", str(tmp_path / "cache"))
    made = Server(("127.0.0.1", 0), Handler)
    made.seen = []
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def get(server: Server, md5: str = MD5) -> Path:
    return fetch(f"http://127.0.0.1:{server.server_port}/f?download=1", md5, "f.npz", wait_seconds=0.01)


def test_a_file_is_fetched_once_and_then_found(server: Server) -> None:
    assert get(server).read_bytes() == BODY
    assert get(server).read_bytes() == BODY
    assert len(server.seen) == 1


def test_a_cut_connection_goes_on_behind_the_last_byte(server: Server) -> None:
    server.cuts = 2
    assert get(server).read_bytes() == BODY
    assert server.seen == ["", "bytes=300000-", "bytes=600000-"]


def test_an_interrupted_run_goes_on_in_the_next(server: Server) -> None:
    part = cache_directory() / "downloads" / MD5[:12] / "f.npz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY[:1234])
    assert get(server).read_bytes() == BODY
    assert server.seen == ["bytes=1234-"]
    assert not part.exists()


def test_a_complete_part_needs_no_byte_more(server: Server) -> None:
    part = cache_directory() / "downloads" / MD5[:12] / "f.npz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY)
    assert get(server).read_bytes() == BODY


def test_a_server_without_ranges_starts_again(server: Server) -> None:
    server.cuts, server.ranges = 1, False
    assert get(server).read_bytes() == BODY


def test_a_wrong_md5_is_refused_and_the_file_removed(server: Server) -> None:
    wrong = "0" * 32
    with pytest.raises(DataError, match="md5"):
        get(server, wrong)
    assert not list((cache_directory() / "downloads" / wrong[:12]).iterdir())


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (429, 5), (503, 5)])
def test_a_server_error_is_told_and_only_a_passing_one_is_tried_again(
    server: Server, status: int, tries: int
) -> None:
    server.status = status
    with pytest.raises(DataError, match=str(status)):
        get(server)
    assert len(server.seen) == tries
