"""A release is read only when it is whole, unchanged and of the cohort's kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.release import read_release
from pipeline.config import Settings
from pipeline.errors import DataError, TamperedError
from pipeline.records import ReleaseRef, Verdict
from pipeline.stage import open_stage
from pipeline.storage import write_parquet


def write(folder: Path, image: np.ndarray, **changes: object) -> Path:
    row = {
        "sample_id": "plain-000000",
        "file_name": "images/plain/a.png",
        "class": "plain",
        "synthetic": True,
    }
    with open_stage(ReleaseRef, folder, inputs={}, settings=Settings()) as stage:
        (stage.path / "images/plain").mkdir(parents=True)
        Image.fromarray(image).save(stage.path / "images/plain/a.png")
        write_parquet(stage.path / "metadata.parquet", pd.DataFrame([{**row, **changes}]))
        stage.finish(["images/plain/a.png", "metadata.parquet"], {}, verdict=Verdict.PASS)
    return folder


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def test_pixels_come_back_as_they_were(cohort: Path, tmp_path: Path):
    found = read_release(write(tmp_path / "r", GREY), Cohort(cohort))
    assert np.array_equal(found.pixels[0, 0], GREY)
    assert found.labels.tolist() == [0]
    deep = (GREY.astype(np.uint16) * 257).astype(np.uint16)
    found = read_release(write(tmp_path / "deep", deep), Cohort(cohort))
    assert found.pixels.dtype == np.uint16
    assert np.array_equal(found.pixels[0, 0], deep)


def test_a_changed_image_is_refused(cohort: Path, tmp_path: Path):
    folder = write(tmp_path / "r", GREY)
    Image.fromarray(GREY.T.copy()).save(folder / "images/plain/a.png")
    with pytest.raises(TamperedError, match=r"a\.png"):
        read_release(folder, Cohort(cohort))


@pytest.mark.parametrize(
    ("image", "changes", "message"),
    [
        (GREY[:8], {}, "16 x 16"),
        (np.zeros((16, 16, 3), np.uint8), {}, "greyscale"),
        (GREY, {"class": "unknown"}, "classes"),
        (GREY, {"synthetic": False}, "synthetic"),
        (GREY, {"file_name": "../../elsewhere.png"}, "outside"),
    ],
)
def test_what_does_not_fit_is_named(cohort: Path, tmp_path: Path, image, changes, message):
    with pytest.raises(DataError, match=message):
        read_release(write(tmp_path / "r", image, **changes), Cohort(cohort))


def test_a_folder_that_is_no_release_is_refused(cohort: Path):
    with pytest.raises(DataError):
        read_release(cohort, Cohort(cohort))
