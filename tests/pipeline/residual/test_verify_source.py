"""An output is held against its source: what leaks is found and named by attribute, and never shown."""

from __future__ import annotations

import base64
import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

from pipeline.errors import DataError, PhosphorError
from pipeline.residual import positive_control as control
from pipeline.residual.search.scanning import Finding, FindingKind, ValueScan
from pipeline.residual.values.collecting import collect_values
from pipeline.residual.values.source_values import SourceValues
from pipeline.residual.verify_source import AgainstReport, verify_against
from tests.pipeline.residual.sources import INSTANCE, PLANTED, write_source

NAME, DAY = "Grünwaldski", "19480317"


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SourceValues]:
    with collect_values(write_source(tmp_path_factory.mktemp("source") / "scans")) as collected:
        yield collected


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return an output that holds nothing of the source."""
    folder = tmp_path / "out"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"s-{number:016x}.png")
    pd.DataFrame({"sample_id": ["s-1", "s-2"], "class": ["normal", "effusion"]}).to_parquet(
        folder / "m.parquet"
    )
    np.save(folder / "pixels.npy", rng.integers(0, 256, (4, 1, 16, 16), dtype=np.uint8))
    (folder / "card.md").write_text("Chest X-ray images of the classes normal and effusion; DX; 2026-01-05.")
    return folder


def shown(report: AgainstReport) -> str:
    """Return all that is ever said of a report."""
    return "\n".join([repr(report.body()), *(leak.sentence() for leak in report.leaks), repr(report)])


def assert_no_value_is_shown(report: AgainstReport) -> None:
    text = shown(report).casefold()
    told = {attribute.casefold() for attribute in PLANTED.values()}
    assert [value for value in PLANTED if value.casefold() in text and value.casefold() not in told] == []


def test_a_clean_output_is_clean_and_the_control_finds_everything(values: SourceValues, output: Path) -> None:
    report = verify_against(output, values)
    assert report.clean
    assert report.leaks == ()
    assert sum(report.searched.values()) == len(values) > 50
    assert report.control.values == control.CONTROL_VALUES
    assert report.control.written == report.control.found > 5 * control.CONTROL_VALUES
    assert report.control.forms == ("plain", "UTF-16", "base64", "gzip", "Parquet", "path")
    assert report.files == 6


def in_parquet(folder: Path, value: str) -> None:
    pd.DataFrame({"note": ["a", value, "b"]}).to_parquet(folder / "m.parquet")


def in_png_text(folder: Path, value: str) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Comment", f"made of {value}", zip=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "images" / "x.png", pnginfo=info)


def in_utf_16(folder: Path, value: str) -> None:
    (folder / "log.txt").write_bytes(f"line {value} end".encode("utf-16"))


def in_base64(folder: Path, value: str) -> None:
    (folder / "log.json").write_text(f'{{"data": "{base64.b64encode(value.encode()).decode()}"}}')


def in_gzip(folder: Path, value: str) -> None:
    (folder / "log.gz").write_bytes(gzip.compress(f"line {value} end".encode()))


def in_a_file_name(folder: Path, value: str) -> None:
    (folder / "images" / f"a_{value}_b.png").write_bytes(b"")


@pytest.mark.parametrize(
    ("value", "attribute"), [(NAME, "PatientName"), (DAY, "PatientBirthDate"), (INSTANCE, "SOPInstanceUID")]
)
@pytest.mark.parametrize("tamper", [in_parquet, in_png_text, in_utf_16, in_base64, in_gzip, in_a_file_name])
def test_one_value_in_one_place_is_found_and_named_by_its_attribute(
    values: SourceValues, output: Path, tamper: Callable[[Path, str], None], value: str, attribute: str
) -> None:
    tamper(output, value)
    report = verify_against(output, values)
    assert not report.clean
    assert any(attribute in leak.attribute for leak in report.leaks)
    assert_no_value_is_shown(report)


def test_a_date_is_found_in_another_spelling(values: SourceValues, output: Path) -> None:
    (output / "card.md").write_text("born 17.03.1948 in Q.")
    assert [leak.attribute for leak in verify_against(output, values).leaks] == ["PatientBirthDate"]


def test_a_leak_says_encoding_way_of_packing_and_file(values: SourceValues, output: Path) -> None:
    (output / "log.gz").write_bytes(gzip.compress(f"line {INSTANCE} end".encode("utf-16-le")))
    (leak,) = [leak for leak in verify_against(output, values).leaks if "SOPInstanceUID" in leak.attribute]
    assert (leak.encoding, leak.inside, leak.files, leak.values) == ("utf-16", "gzip", ("log.gz",), 1)
    assert leak.sentence() == (
        "found: MediaStorageSOPInstanceUID, 1 value, as utf-16, inside gzip, in log.gz"
    )


def test_a_file_name_that_holds_a_value_is_withheld(values: SourceValues, output: Path) -> None:
    (output / "images" / f"{NAME}.txt").write_text(f"{DAY} {NAME}")
    report = verify_against(output, values)
    assert all("withheld" in file for leak in report.leaks for file in leak.files)
    assert_no_value_is_shown(report)


def test_small_batches_find_the_same(values: SourceValues, output: Path) -> None:
    in_utf_16(output, NAME)
    in_a_file_name(output, DAY)
    whole, parts = verify_against(output, values), verify_against(output, values, batch_values=7)
    assert whole.leaks == parts.leaks
    assert whole.body() == parts.body()


def test_what_cannot_be_searched_is_not_clean(values: SourceValues, output: Path) -> None:
    os.mkfifo(output / "pipe")
    report = verify_against(output, values)
    assert not report.clean
    assert report.not_searched == (("pipe", "not a regular file"),)


def test_a_scanner_that_misses_a_form_fails_the_verification(
    values: SourceValues, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ValueScan.search_file

    def blind(scan: ValueScan, folder: Path, name: str) -> list[Finding]:
        return [finding for finding in whole(scan, folder, name) if "16" not in finding.detail]

    monkeypatch.setattr(ValueScan, "search_file", blind)
    with pytest.raises(PhosphorError, match=r"scanner is broken: it missed 32 .* \(UTF-16\)") as raised:
        verify_against(output, values)
    assert raised.value.exit_code == 1


def test_the_control_leaves_nothing_behind(
    values: SourceValues, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    verify_against(output, values)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_missing_or_empty_output_is_refused(values: SourceValues, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="not a folder with files"):
            verify_against(folder, values)


def test_the_source_against_itself_gives_every_value(values: SourceValues, tmp_path: Path) -> None:
    write_source(tmp_path / "scans")
    scan_numbers = {value.number: value.text for batch in values.batches() for value in batch}
    scan = ValueScan({number: (text,) for number, text in scan_numbers.items()})
    hits = [hit for name in ("Grunwaldski_A/chest_20210904_MRN-0048817.dcm", "scan785.nii")
            for hit in scan.search_file(tmp_path / "scans", name)]  # fmt: skip
    found = {scan_numbers[hit.value_number] for hit in hits if hit.kind is FindingKind.FOUND}
    assert {value for value in PLANTED if value in scan_numbers.values()} - found <= {"Ännemarie Grünwaldski"}
