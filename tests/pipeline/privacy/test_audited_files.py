"""A folder of another generator: every image in it is looked at, or report and verdict say which is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.privacy_report import read_privacy_report
from pipeline.errors import DataError
from pipeline.privacy import run_audit
from pipeline.privacy.audited_files import NO_CLASS, NOT_LOOKED_AT, find_images
from pipeline.privacy.audited_set import open_audited
from pipeline.records import Verdict
from tests.cohorts import CLASSES
from tests.pipeline.privacy.sets import QUICK, fresh


def write_some(folder: Path, count: int, ending: str = "png", below: str = "") -> list[np.ndarray]:
    pixels, labels = fresh(count, seed=9, size=32)
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / CLASSES[label] / below / f"Smith{i:03d}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path, **({"lossless": True} if ending == "webp" else {}))
    return [image[0] for image in pixels]


@pytest.mark.parametrize("ending", ["webp", "tif", "TIFF", "bmp", "PNG"])
def test_images_of_every_format_are_read_alike_at_any_depth(
    gate_cohort: Path, tmp_path: Path, ending: str
) -> None:
    written = write_some(tmp_path / "foreign", 6, ending, below="seed0/batch1")
    audited = open_audited(tmp_path / "foreign", Cohort(gate_cohort))
    assert audited.num_unread == 0
    assert sorted(audited.table["class"].unique()) == sorted(CLASSES)
    assert all(name.split("/")[1:3] == ["seed0", "batch1"] for name in audited.table["file"])
    found = {image.tobytes() for image in audited.take(np.arange(6))[:, 0]}
    assert found == {image.tobytes() for image in written}


def test_what_is_not_looked_at_is_counted_in_report_and_verdict(gate_cohort: Path, tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    write_some(folder, 60)
    plain = open_audited(folder, Cohort(gate_cohort)).digest
    (folder / "notes.json").write_text("{}")
    (folder / CLASSES[0] / "._Smith000.png").write_bytes(b"x")
    assert open_audited(folder, Cohort(gate_cohort)).digest == plain
    (folder / CLASSES[0] / "Smith.dcm").write_bytes(b"x")
    (folder / CLASSES[0] / "Smith.gif").write_bytes(b"x")
    (folder / CLASSES[0] / ".Smith.png").write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    Image.new("L", (32, 32)).save(folder / "overview.png")
    reference = run_audit(folder, gate_cohort, tmp_path / "audit", QUICK, seed=0)
    report = read_privacy_report(tmp_path / "audit")
    assert reference.counts["candidates"] == 60
    assert report.candidates_digest != plain
    assert report.verdict is not Verdict.PASS
    part = "the verdict rests on a part of the folder: 5 files that may be images were not looked at"
    assert all(part in told.reasons for told in report.classes.values() if told.verdict is not Verdict.FAIL)
    assert any(part in reason for reason in report.reasons)
    said = "\n".join(report.not_covered)
    assert f"2 files of the folder were not looked at: {NOT_LOOKED_AT} (.dcm 1, .gif 1)" in said
    assert f"1 files of the folder were not looked at: {NO_CLASS} (.png 1)" in said
    assert "1 files of the folder were not looked at: a hidden file (.png 1)" in said
    assert "a link to a folder, which is not followed (no ending 1)" in said
    assert "2 files of the folder are texts without images" in said
    assert "Smith" not in said
    assert "Smith" in pd.read_parquet(tmp_path / "audit" / "candidates.parquet")["file"].iloc[0]


def test_a_folder_without_an_image_in_a_class_says_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Smith.dcm").write_bytes(b"x")
    with pytest.raises(
        DataError, match=r"holds no PNG.*1 files of the folder were not looked at.*\.dcm 1"
    ) as told:
        find_images(tmp_path)
    assert "Smith" not in str(told.value)


def frames(path: Path) -> None:
    pages = [Image.new("L", (32, 32), shade) for shade in (1, 2)]
    pages[0].save(path, save_all=True, append_images=pages[1:])


def floats(path: Path) -> None:
    Image.fromarray(np.full((32, 32), 0.5, np.float32)).save(path)


def wide(path: Path) -> None:
    Image.fromarray(np.full((32, 32), 70_000, np.int32)).save(path)


@pytest.mark.parametrize("write", [frames, floats, wide])
def test_an_image_that_would_be_read_in_part_is_refused(
    gate_cohort: Path, tmp_path: Path, write: object
) -> None:
    folder = tmp_path / "foreign"
    write_some(folder, 3)
    write(folder / CLASSES[0] / "Smith.tif")  # type: ignore[operator]
    with pytest.raises(DataError, match=r"several images|not integers of 8 or 16 bits") as told:
        open_audited(folder, Cohort(gate_cohort))
    assert "Smith" not in str(told.value)
    assert told.value.remedy
