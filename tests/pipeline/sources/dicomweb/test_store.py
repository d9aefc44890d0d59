"""A DICOMweb source against a real Orthanc: what is listed, what is fetched, and what is kept secret."""

from __future__ import annotations

import csv
import hashlib
import io
import pickle
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from pipeline.errors import DataError, ManifestError, ScanRefusedError
from pipeline.manifest import load_manifest
from pipeline.manifest.web_access import WebAccess
from pipeline.phantom import PhantomSettings, write_phantom_cohort
from pipeline.sources.base import ReadRule
from pipeline.sources.dicomweb.store import DicomWebStore, is_private_channel
from pipeline.sources.listing import inputs_digest, list_scans
from pipeline.sources.reading import read_scan
from pipeline.sources.stores import open_store
from tests.orthanc import PASSWORD, Orthanc, needs_orthanc, set_credentials

LOGIN = {"user": "${PACS_USER}", "password": "${PACS_PASSWORD}"}

MANIFEST = """
name: web
sources:
  - kind: dicomweb
    url: ${PACS_URL}
    user: ${PACS_USER}
    password: ${PACS_PASSWORD}
    label: {folder: 0, values: {nothing: normal}}
    patient: {tag: PatientID}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return `study/series/instance` -> bytes of a few phantom DICOM files."""
    folder = tmp_path_factory.mktemp("phantom") / "cohort"
    write_phantom_cohort(folder, PhantomSettings(num_patients=12, image_size=32, nifti_share=0.0, seed=3))
    return {name_of(path): path.read_bytes() for path in sorted((folder / "dicom").rglob("*.dcm"))}


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> Iterator[Orthanc]:
    server = Orthanc(tmp_path_factory.mktemp("orthanc")).start()
    try:
        for data in files.values():
            server.store_as_is(data)
        yield server
    finally:
        server.kill()


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    set_credentials(monkeypatch)


def name_of(path: Path | str) -> str:
    header = pydicom.dcmread(path, stop_before_pixels=True)
    return f"{header.StudyInstanceUID}/{header.SeriesInstanceUID}/{header.SOPInstanceUID}"


def store(server: Orthanc, *, page_size: int = 1000, **query: str) -> DicomWebStore:
    access = WebAccess(tuple(query.items()), **LOGIN, retry_seconds=5.0)
    return DicomWebStore(server.url, access, page_size)


def manifest(folder: Path, text: str = MANIFEST) -> Path:
    path = folder / "web.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def headers(files: dict[str, bytes]) -> dict[str, pydicom.Dataset]:
    return {name: pydicom.dcmread(io.BytesIO(data)) for name, data in files.items()}


@needs_orthanc
@pytest.mark.parametrize("page_size", [1, 5, 1000])
def test_every_instance_is_listed_once_in_order_whatever_the_length_of_a_page(
    orthanc: Orthanc, files: dict[str, bytes], page_size: int
) -> None:
    entries = list(store(orthanc, page_size=page_size).entries())
    assert len(files) > 15
    assert [entry.name for entry in entries] == sorted(files)
    assert all(entry.name.endswith(f"/{entry.stamp}") and not entry.refusal for entry in entries)


@needs_orthanc
def test_filters_choose_by_modality_and_by_a_range_of_dates(
    orthanc: Orthanc, files: dict[str, bytes]
) -> None:
    known = headers(files)
    wanted = {name for name, header in known.items() if header.Modality == "CR"}
    assert {entry.name for entry in store(orthanc, Modality="CR").entries()} == wanted != set(files)
    dates = sorted(str(header.StudyDate) for header in known.values())
    first, last = dates[3], dates[-4]
    within = {name for name, header in known.items() if first <= header.StudyDate <= last}
    found = store(orthanc, page_size=4, StudyDate=f"{first}-{last}").entries()
    assert {entry.name for entry in found} == within != set(files)
    assert list(store(orthanc, Modality="XA").entries()) == []


@needs_orthanc
def test_a_misspelt_filter_is_refused_because_orthanc_would_answer_with_everything(orthanc: Orthanc) -> None:
    answer = orthanc.session().get(f"{orthanc.url}/instances?Modalty=CR", timeout=10)
    assert len(answer.json()) > 15
    with pytest.raises(ManifestError, match="not a DICOM attribute"):
        list(store(orthanc, Modalty="CR").entries())


@needs_orthanc
def test_bytes_are_those_of_the_stored_files_whatever_their_transfer_syntax(
    orthanc: Orthanc, files: dict[str, bytes]
) -> None:
    opened = store(orthanc)
    assert all(opened.read(name) == data for name, data in files.items())
    syntaxes = set()
    for short in ("JPEG2000.dcm", "SC_rgb_rle.dcm", "MR_small.dcm", "JPEG-LL.dcm"):
        path = get_testdata_file(short, download=False)
        if path is None:
            continue
        data = Path(path).read_bytes()
        orthanc.store_as_is(data)
        try:
            assert opened.read(name_of(path)) == data
        finally:
            remove(orthanc, name_of(path))
        syntaxes.add(str(pydicom.dcmread(path).file_meta.TransferSyntaxUID))
    assert len(syntaxes) > 1


@needs_orthanc
def test_all_requests_of_a_process_share_one_connection(
    orthanc: Orthanc, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from urllib3.connection import HTTPConnection

    opened: list[object] = []
    connect = HTTPConnection.connect
    monkeypatch.setattr(HTTPConnection, "connect", lambda self: (opened.append(self), connect(self))[1])
    one = store(orthanc, page_size=5)
    for entry in one.entries():
        one.read(entry.name)
    assert len(opened) == 1


@needs_orthanc
def test_an_instance_that_is_gone_is_refused_alone(orthanc: Orthanc, files: dict[str, bytes]) -> None:
    opened = store(orthanc)
    name = sorted(files)[0]
    assert name in {entry.name for entry in opened.entries()}
    remove(orthanc, name)
    try:
        with pytest.raises(ScanRefusedError) as refused:
            opened.read(name)
        assert refused.value.problem == "no longer on the server"
        assert opened.read(sorted(files)[1]) == files[sorted(files)[1]]
    finally:
        orthanc.store_as_is(files[name])


@needs_orthanc
def test_a_file_that_the_server_has_lost_is_refused_alone(files: dict[str, bytes], tmp_path: Path) -> None:
    server = Orthanc(tmp_path).start()
    try:
        kept, lost = sorted(files)[:2]
        for name in (kept, lost):
            server.store_as_is(files[name])
        # Killed first: a running server would still have the file in its cache.
        server.kill()
        where = [path for path in (tmp_path / "storage").glob("??/??/*") if path.read_bytes() == files[lost]]
        assert len(where) == 1
        where[0].unlink()
        server.start()
        with pytest.raises(ScanRefusedError, match="HTTP 500"):
            store(server).read(lost)
        assert store(server).read(kept) == files[kept]
    finally:
        server.kill()


@needs_orthanc
def test_a_wrong_password_is_told_without_it(orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_PASSWORD", "hunter2-wrong")
    with pytest.raises(DataError) as error:
        list(store(orthanc).entries())
    assert not isinstance(error.value, ScanRefusedError)
    assert "credentials" in str(error.value) and "401" in str(error.value)
    assert "hunter2" not in str(error.value)


@needs_orthanc
def test_an_address_without_a_service_is_told(orthanc: Orthanc) -> None:
    wrong = DicomWebStore(orthanc.origin + "/elsewhere", WebAccess(**LOGIN))
    with pytest.raises(DataError, match="ends in /dicom-web"):
        list(wrong.entries())


@needs_orthanc
def test_a_manifest_lists_and_reads_a_server(
    orthanc: Orthanc, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACS_URL", orthanc.url)
    with (tmp_path / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label"])
        writer.writerows([name, "normal"] for name in files)
    text = MANIFEST.replace(
        "{folder: 0, values: {nothing: normal}}", "{column: label}\n    table: {path: labels.csv}"
    )
    listing = list_scans(load_manifest(manifest(tmp_path, text)))
    assert [task.name for task in listing.tasks] == sorted(files)
    assert {task.label for task in listing.tasks} == {"normal"}
    scan = read_scan(listing.tasks[0])
    assert scan.sha256 == hashlib.sha256(files[listing.tasks[0].name]).hexdigest()
    assert scan.patient == headers(files)[listing.tasks[0].name].PatientID


@needs_orthanc
def test_secrets_and_the_way_to_the_server_are_no_part_of_tasks_or_digests(
    orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACS_URL", orthanc.url)
    before = load_manifest(manifest(tmp_path))
    listing = list_scans(before)
    task = pickle.dumps(listing.tasks[0])
    assert b"${PACS_PASSWORD}" in task and PASSWORD.encode() not in task
    text = MANIFEST.replace("${PACS_URL}", orthanc.url).replace("label:", "retry_seconds: 7\n    label:")
    after = load_manifest(manifest(tmp_path, text))
    assert inputs_digest(after, list_scans(after)) == inputs_digest(before, listing)
    narrower = load_manifest(manifest(tmp_path, MANIFEST + "    query: {Modality: CR}\n"))
    assert narrower.digest() != before.digest()


def test_a_process_opens_a_server_once() -> None:
    rule = ReadRule("dicom", "http://127.0.0.1:9/dicom-web", store="dicomweb", web=WebAccess())
    assert open_store(rule) is open_store(pickle.loads(pickle.dumps(rule)))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("password: hunter2", "must not contain a secret"),
        ("password: prefix-${PACS_PASSWORD}", "must not contain a secret"),
        ("token: ${A}", "give user and password, or token"),
        ("query: {Modality: ''}", "query"),
        ('query: {"Modality&limit": CR}', "query"),
        ('query: {Modality: "CR\\nX: 1"}', "query"),
        ("url: ftp://pacs/dicom-web", "http"),
        ("url: https://me:hunter2@pacs/dicom-web", "user or password"),
        ("url: ${HOST}@pacs/dicom-web", "user or password"),
        ("url: https://pacs/dicom-web?key=hunter2", "query or a fragment"),
        ("url: https:///dicom-web", "host"),
        ("url: https://pacs:99999/", "not a valid address"),
        ("retry_seconds: -1", "retry_seconds"),
    ],
)
def test_a_manifest_with_a_secret_or_an_unusable_address_is_refused_without_showing_it(
    tmp_path: Path, line: str, problem: str
) -> None:
    key = line.split(":", maxsplit=1)[0]
    kept = [one for one in MANIFEST.splitlines() if not one.strip().startswith(f"{key}:")]
    text = "\n".join([*kept, f"    {line}"])
    with pytest.raises(ManifestError) as error:
        load_manifest(manifest(tmp_path, text))
    assert problem in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("PACS_URL", "", "PACS_URL is not set"),
        ("PACS_URL", "http://me:hunter2@127.0.0.1:1/dicom-web", "user or password"),
        ("PACS_PASSWORD", "", "PACS_PASSWORD is not set"),
    ],
)
def test_a_variable_that_is_missing_or_unusable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, problem: str
) -> None:
    monkeypatch.setenv("PACS_URL", "http://127.0.0.1:1/dicom-web")
    monkeypatch.setenv(name, value)
    with pytest.raises(ManifestError, match=problem) as error:
        list_scans(load_manifest(manifest(tmp_path)))
    assert "hunter2" not in str(error.value)


def test_only_an_encrypted_or_a_local_channel_counts_as_private() -> None:
    assert all(map(is_private_channel, ["https://pacs/x", "http://localhost:8042", "http://[::1]:80/x"]))
    assert not any(map(is_private_channel, ["http://pacs/x", "http://10.0.0.7:8042", "http://localhost.x/"]))


def remove(server: Orthanc, name: str) -> None:
    session = server.session()
    found = session.post(f"{server.origin}/tools/lookup", data=name.rsplit("/", 1)[-1], timeout=10).json()
    (place,) = [one["Path"] for one in found if one["Type"] == "Instance"]
    session.delete(server.origin + place, timeout=10).raise_for_status()
