"""A DICOMweb server that is hostile, broken or away: bounded, named, no fault of a scan."""

from __future__ import annotations

import gzip
import logging
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipeline.errors import DataError, ScanRefusedError
from pipeline.manifest.web_access import WebAccess
from pipeline.sources.dicomweb import http as dicomweb_http
from pipeline.sources.dicomweb import query as dicomweb_query
from pipeline.sources.dicomweb import store as dicomweb
from pipeline.sources.dicomweb.store import DicomWebStore
from tests.web_server import DATA, MULTIPART, NAME, UID, Handler, Server, cut, endless, multipart, row


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[Handler], None]], Server]]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made: list[Server] = []

    def start(answer: Callable[[Handler], None]) -> Server:
        made.append(Server(answer))
        return made[-1]

    yield start
    for server in made:
        server.shutdown()
        server.server_close()


Serve = Callable[[Callable[[Handler], None]], Server]


def test_an_endless_body_is_cut_off_and_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "MAX_FILE_BYTES", 2**20)
    server = serve(endless)
    with pytest.raises(ScanRefusedError, match="file too large"):
        server.store().read(NAME)
    assert server.hung_up.wait(10)


def test_an_announced_size_beyond_the_bound_is_refused_unread(serve: Serve) -> None:
    server = serve(lambda handler: handler.give(200, b"", MULTIPART, Content_Length=str(2**40)))
    with pytest.raises(ScanRefusedError, match="file too large"):
        server.store().read(NAME)


def test_a_compressed_answer_is_unpacked_no_further_than_the_bound(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicomweb_query, "MAX_PAGE_BYTES", 2**20)
    bomb = gzip.compress(b"[" + b" " * 2**26 + b"]")
    server = serve(lambda handler: handler.give(200, bomb, Content_Encoding="gzip"))
    with pytest.raises(DataError, match="larger than 1048576 bytes"):
        list(server.store().entries())


def test_a_dripping_body_ends_by_the_clock(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb_http, "BODY_SECONDS", 0.2)

    def drip(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", MULTIPART)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.02)

    with pytest.raises(DataError, match="took longer than") as error:
        serve(drip).store().read(NAME)
    assert not isinstance(error.value, ScanRefusedError)


@pytest.mark.parametrize(
    ("kind", "body", "problem"),
    [
        ("text/html", b"<html>sign in</html>", "is not a DICOM file"),
        ("multipart/related", multipart(DATA), "has no boundary"),
        ("multipart/related; boundary=" + "x" * 201, multipart(DATA), "has no boundary"),
        (MULTIPART, multipart(DATA, kind="text/html"), "is not a DICOM file"),
        (MULTIPART, multipart(DATA, end=b"\r\n--cut\r\n\r\nmore\r\n--cut--"), "several parts"),
        (MULTIPART, b"x" * 100_000, "has no part"),
        (MULTIPART, multipart(b""), "empty file"),
        (MULTIPART, multipart(DATA.replace(UID.encode(), b"9.9.9")), "another instance"),
    ],
)
def test_an_answer_that_is_not_the_instance_is_refused(
    serve: Serve, kind: str, body: bytes, problem: str
) -> None:
    server = serve(lambda handler: handler.give(200, body, kind))
    with pytest.raises(ScanRefusedError, match=problem):
        server.store().read(NAME)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (MULTIPART, multipart(DATA)),
        ('Multipart/Related; boundary="cut"; type="application/dicom"', b"\r\n" + multipart(DATA)),
        (MULTIPART, b"a preamble\r\n--cut\r\n\r\n" + DATA + b"\r\n--cut--"),
        ("application/dicom", DATA),
    ],
)
def test_every_regular_form_of_the_answer_gives_the_bytes(serve: Serve, kind: str, body: bytes) -> None:
    assert serve(lambda handler: handler.give(200, body, kind)).store().read(NAME) == DATA


def test_a_redirect_is_followed_on_the_same_server_only(serve: Serve) -> None:
    other = serve(lambda handler: handler.give(200, multipart(DATA), MULTIPART))

    target = {"to": "/moved"}

    def answer(handler: Handler) -> None:
        if "moved" in handler.path:
            handler.give(200, multipart(DATA), MULTIPART)
        else:
            handler.give(302, Location=target["to"])

    server = serve(answer)
    assert server.store().read(NAME) == DATA
    for place in (other.url, f"//127.0.0.1:{other.server_port}/", "file:///etc/passwd", "", "http://[/"):
        target["to"] = place
        with pytest.raises(DataError, match="redirects to another server") as error:
            server.store().read(NAME)
        assert not isinstance(error.value, ScanRefusedError)
    assert other.asked == []
    target["to"] = "/again"
    with pytest.raises(DataError, match="redirects too often"):
        server.store().read(NAME)


def test_the_body_of_a_redirect_is_never_read(serve: Serve) -> None:
    server = serve(lambda handler: endless(handler, 302))
    with pytest.raises(DataError, match="redirects to another server"):
        server.store().read(NAME)
    assert server.hung_up.wait(10)


def test_credentials_are_sent_by_variable_and_never_taken_from_elsewhere(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("THE_TOKEN", "abc.def")
    server = serve(lambda handler: handler.give(200, multipart(DATA), MULTIPART))
    DicomWebStore(server.url, WebAccess(token="${THE_TOKEN}")).read(NAME)
    DicomWebStore(server.url, WebAccess()).read(NAME)
    sent = [headers.get("Authorization") for headers in server.seen_headers]
    assert sent == ["Bearer abc.def", None]


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_no_fault_of_the_scan(serve: Serve, status: int) -> None:
    server = serve(lambda handler: handler.give(status))
    with pytest.raises(DataError, match="credentials") as error:
        server.store(retry_seconds=60).read(NAME)
    assert not isinstance(error.value, ScanRefusedError)
    assert len(server.asked) == 1


FAILURES: dict[str, Callable[[Handler], None]] = {
    "overloaded": lambda handler: handler.give(503),
    "too many": lambda handler: handler.give(429, Retry_After="1"),
    "gateway": lambda handler: handler.give(502),
    "cut": cut,
    "no end": lambda handler: handler.give(200, multipart(DATA, end=b""), MULTIPART),
    "internal": lambda handler: handler.give(500),
    "hangs up": lambda handler: handler.connection.shutdown(socket.SHUT_RDWR),
    "silent": lambda handler: time.sleep(1.0),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_passing_failure_is_tried_again_and_told(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    monkeypatch.setattr(dicomweb_http, "READ_SECONDS", 0.3)

    def answer(handler: Handler) -> None:
        if len(handler.server.asked) <= 2:
            FAILURES[failure](handler)
        else:
            handler.give(200, multipart(DATA), MULTIPART)

    server = serve(answer)
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        assert server.store(retry_seconds=30).read(NAME) == DATA
    assert len(server.asked) == 3
    assert "is unavailable" in caplog.text and "ingest waits up to 30 s" in caplog.text
    assert "answers again" in caplog.text
    assert UID not in caplog.text


@pytest.mark.parametrize("failure", sorted(set(FAILURES) - {"internal"}))
def test_a_lasting_failure_is_the_server_s_and_never_refuses_the_scan(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    monkeypatch.setattr(dicomweb_http, "READ_SECONDS", 0.3)
    server = serve(FAILURES[failure])
    with pytest.raises(DataError, match="does not answer") as error:
        server.store(retry_seconds=0.1).read(NAME)
    assert not isinstance(error.value, ScanRefusedError)
    assert "finished scans are kept" in str(error.value)
    assert UID not in str(error.value)


def test_an_error_for_one_instance_refuses_it_and_an_error_for_all_does_not(serve: Serve) -> None:
    def one_broken(handler: Handler) -> None:
        if UID in handler.path:
            handler.give(500)
        else:
            handler.give_rows([])

    with pytest.raises(ScanRefusedError, match="HTTP 500"):
        serve(one_broken).store(retry_seconds=30).read(NAME)
    with pytest.raises(DataError, match="fails") as error:
        serve(FAILURES["internal"]).store(retry_seconds=30).read(NAME)
    assert not isinstance(error.value, ScanRefusedError)


def test_the_server_s_own_wish_to_be_left_alone_is_honoured(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(dicomweb_http.time, "sleep", waits.append)

    def answer(handler: Handler) -> None:
        if len(handler.server.asked) <= 2:
            handler.give(429, Retry_After="7")
        else:
            handler.give(200, multipart(DATA), MULTIPART)

    assert serve(answer).store(retry_seconds=30).read(NAME) == DATA
    assert waits == [7.0, 7.0]


def test_a_port_without_a_server_is_told(serve: Serve) -> None:
    server = serve(FAILURES["cut"])
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match="not reachable"):
        list(server.store().entries())


def test_a_server_that_ignores_the_offset_is_found_out(serve: Serve) -> None:
    page = [row(uid=f"1.2.{number}") for number in range(10)]
    with pytest.raises(DataError, match="every page with the same instances"):
        list(serve(lambda handler: handler.give_rows(page)).store(page_size=10).entries())


def test_a_server_that_does_not_page_at_all_is_taken_at_its_word(serve: Serve) -> None:
    page = [row(uid=f"1.2.{number}") for number in range(25)]
    entries = list(serve(lambda handler: handler.give_rows(page)).store(page_size=10).entries())
    assert len(entries) == 25


def test_pages_that_the_server_keeps_short_are_all_fetched(serve: Serve) -> None:
    rows = [row(uid=f"1.2.{number}") for number in range(23)]

    def answer(handler: Handler) -> None:
        at = handler.parameter("offset")
        handler.give_rows(rows[at : at + 4]) if at < len(rows) else handler.give(204)

    server = serve(answer)
    assert len(list(server.store(page_size=10).entries())) == 23
    assert len(server.asked) == 7


def test_a_list_without_end_is_cut_off(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb_query, "MAX_INSTANCES", 100)

    def answer(handler: Handler) -> None:
        at = handler.parameter("offset")
        handler.give_rows([row(uid=f"1.2.{number}") for number in range(at, at + 10)])

    with pytest.raises(DataError, match="more than 100 instances"):
        list(serve(answer).store().entries())


@pytest.mark.parametrize("uid", ["../../../etc/passwd", "..", "", "1.2/3", "1.2?x=1", "1" * 65, "1.2\n3"])
def test_an_unusable_uid_is_refused_and_never_asked_for(serve: Serve, uid: str) -> None:
    def answer(handler: Handler) -> None:
        first = handler.parameter("offset") == 0
        handler.give_rows([row(), row(uid=uid), row(study=uid, uid="1.2.5")] if first else [])

    server = serve(answer)
    entries = list(server.store().entries())
    assert sorted(bool(entry.refusal) for entry in entries) == [False, True, True]
    assert {entry.refusal for entry in entries} == {"", dicomweb_query.UNUSABLE_UID}
    assert [entry.name for entry in entries if not entry.refusal] == [NAME]


@pytest.mark.parametrize(
    ("body", "kind", "problem"),
    [
        (b"<html>sign in</html>", "text/html", "not DICOM JSON"),
        (b'{"a": 1}', "application/dicom+json", "not DICOM JSON"),
        (b"[1, 2]", "application/json", "not DICOM JSON"),
        (b"[" * 200_000, "application/dicom+json", "nested too deeply|truncated"),
        (b'[{"0020000D": ', "application/dicom+json", "truncated"),
        (b"[" + b"9" * 100_000 + b"]", "application/dicom+json", "not DICOM JSON|truncated"),
    ],
)
def test_an_answer_that_is_no_list_is_told(serve: Serve, body: bytes, kind: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        list(serve(lambda handler: handler.give(200, body, kind)).store().entries())


def test_values_of_a_wrong_shape_count_as_missing(serve: Serve) -> None:
    shapes: list[Any] = [{"0020000D": "1.2"}, {"0020000D": {"Value": "1.2"}}, {"0020000D": {"Value": [{}]}}]

    def answer(handler: Handler) -> None:
        handler.give_rows(shapes if handler.parameter("offset") == 0 else [])

    assert [bool(entry.refusal) for entry in serve(answer).store().entries()] == [True] * 3


def test_a_filter_that_the_server_passes_over_is_found_out(serve: Serve) -> None:
    def answer(handler: Handler) -> None:
        handler.give_rows([row(**{"00080060": "CT"})] if handler.parameter("offset") == 0 else [])

    assert len(list(serve(answer).store(Modality="CT").entries())) == 1
    with pytest.raises(DataError, match="does not search by this attribute"):
        list(serve(answer).store(Modality="CR").entries())


def test_a_server_without_a_search_of_all_instances_is_asked_study_by_study(serve: Serve) -> None:
    tree = {"1.1": {"1.1.1": ["1.1.1.1", "1.1.1.2"]}, "1.2": {"1.2.1": ["1.2.1.1"], "../1": ["1.2.2.1"]}}

    def answer(handler: Handler) -> None:
        path = urlsplit(handler.path).path.removeprefix("/dicom-web").strip("/").split("/")
        at = handler.parameter("offset")
        if path == ["instances"]:
            handler.give(404)
        elif path == ["studies"]:
            handler.give_rows([row(study=study) for study in tree][at:])
        elif len(path) == 3:
            handler.give_rows([row(series=series) for series in tree[path[1]]][at:])
        else:
            handler.give_rows([row(uid=uid) for uid in tree[path[1]][path[3]]][at:])

    server = serve(answer)
    entries = list(server.store(StudyDate="2020*", Modality="CR", InstanceNumber="1").entries())
    names = [entry.name for entry in entries if not entry.refusal]
    assert names == ["1.1/1.1.1/1.1.1.1", "1.1/1.1.1/1.1.1.2", "1.2/1.2.1/1.2.1.1"]
    assert len(entries) == 4
    asked = {urlsplit(path).path.count("/"): urlsplit(path).query for path in server.asked[1:]}
    assert [key in asked[2] for key in ("StudyDate", "Modality", "InstanceNumber")] == [True, False, False]
    assert [key in asked[4] for key in ("StudyDate", "Modality", "InstanceNumber")] == [False, True, False]
    assert [key in asked[6] for key in ("StudyDate", "Modality", "InstanceNumber")] == [False, False, True]


def test_an_unencrypted_channel_to_another_machine_is_told(caplog: pytest.LogCaptureFixture) -> None:
    away = DicomWebStore("http://pacs.invalid:9/dicom-web", WebAccess(retry_seconds=0))
    with caplog.at_level(logging.WARNING, logger="pipeline"), pytest.raises(DataError):
        list(away.entries())
    assert "not encrypted" in caplog.text
