"""File names that are not UTF-8: collected, found, mapped and hashed with the bytes that they have."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import Manifest
from pipeline.residual.search.escapes import unescaped_parts
from pipeline.residual.values.collecting import collect_values
from pipeline.residual.values.spellings import spellings
from pipeline.residual.verify_source import verify_against
from pipeline.storage import digest_of
from tests.pipeline.residual.sources import named_dicom

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")

ODD = b"M\xfcllerhuber_\xff77"
NAME = os.fsdecode(ODD)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    (folder / f"{NAME}.dcm").write_bytes(named_dicom("Quendolin", 7))
    return folder


def test_the_control_finds_the_values_of_an_odd_name(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").write_text("nothing")
    with collect_values(scans) as values:
        report = verify_against(tmp_path / "out", values)
        assert report.clean
        assert report.control.found == report.control.written


@pytest.mark.parametrize(
    "content",
    [ODD, NAME.encode("utf-8", "surrogatepass"), json.dumps(NAME).encode(), b"M\xc3\xbcllerhuber_\xc3\xbf77"],
    ids=["bytes", "surrogates", "JSON", "as Latin-1"],
)
def test_an_odd_name_is_found_however_it_is_written(scans: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").write_bytes(b"name: " + content + b" end")
    with collect_values(scans) as values:
        leaks = verify_against(tmp_path / "out", values).leaks
    assert "file name" in {leak.attribute for leak in leaks}


def test_an_odd_name_of_an_output_is_searched(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"{NAME}.txt").write_bytes(b"")
    with collect_values(scans) as values:
        (leak, *_) = verify_against(tmp_path / "out", values).leaks
    assert leak.inside == "path"
    leak.sentence().encode()  # what is told can be printed: the name is withheld


def test_spellings_digests_and_escapes_take_surrogates() -> None:
    assert {ODD.lower(), NAME.lower().encode("utf-8", "surrogatepass")} <= {
        p.lower() for p in spellings(NAME)
    }
    assert len(digest_of([NAME])) == 64
    assert any(b"\xed\xb3\xbf" in part.data for part in unescaped_parts(rb'"name": "x\udcff yyyyyy"'))
    assert spellings("\ud800abcdef")


def test_a_cohort_of_odd_names_has_a_private_map_with_their_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "effusion"
    folder.mkdir(parents=True)
    names = [f"{NAME}_{number:02}.png" for number in range(40)]
    for number, name in enumerate(names):
        Image.effect_noise((16, 16), 40 + number).save(tmp_path / "x.png")
        (tmp_path / "x.png").rename(folder / name)
    source = {"kind": "images", "path": str(tmp_path / "images"), "label": {"folder": 0},
              "patient": {"pattern": r"effusion/(.*)\.png"}}  # fmt: skip
    manifest = Manifest.model_validate({"name": "odd", "sources": [source]}).located(tmp_path)
    settings = IngestSettings(image_size=16, workers=1, private_map=tmp_path / "map.parquet")
    cohort = run_ingest(manifest, tmp_path / "cohort", settings)
    found = pd.read_parquet(tmp_path / "map.parquet")
    assert set(found["name_bytes"]) == {os.fsencode(f"effusion/{name}") for name in names}
    assert all("\\udcfc" in name for name in found["name"])
    assert all((tmp_path / "images" / os.fsdecode(name)).is_file() for name in found["name_bytes"])
    assert cohort is not None
