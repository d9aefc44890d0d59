"""The tools that people use open a release as it is, offline."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

NUM_IMAGES = 10


def pixels(release: Path, name: str) -> np.ndarray:
    with Image.open(release / name) as image:
        assert image.mode == "L"
        return np.asarray(image)


def test_pandas_reads_both_tables(release: Path) -> None:
    for table in (pd.read_csv(release / "metadata.csv"), pd.read_parquet(release / "metadata.parquet")):
        assert len(table) == NUM_IMAGES
        assert all((release / name).is_file() for name in table["file_name"])
        assert table.groupby("class")["label"].nunique().eq(1).all()


def test_monai_loads_every_image_with_its_label(release: Path) -> None:
    from monai.data import load_decathlon_datalist
    from monai.transforms import LoadImaged

    items: list[dict[str, Any]] = load_decathlon_datalist(
        release / "datalist.json", is_segmentation=False, data_list_key="training", base_dir=release
    )
    loaded = [LoadImaged(keys="image", reader="PILReader", image_only=True)(item) for item in items]
    assert len(loaded) == NUM_IMAGES
    labels = json.loads((release / "datalist.json").read_text())["labels"]
    for item, image in zip(items, loaded, strict=True):
        assert Path(item["image"]).parent.name == labels[str(item["label"])]
        np.testing.assert_array_equal(np.asarray(image["image"]).T, pixels(release, item["image"]))


def test_sha256sum_checks_the_release(release: Path) -> None:
    tool = shutil.which("sha256sum")
    if tool is None:
        pytest.skip("sha256sum is not installed")
    done = subprocess.run(
        [tool, "--strict", "--quiet", "-c", "SHA256SUMS"], cwd=release, check=False, capture_output=True
    )
    assert (done.returncode, done.stdout) == (0, b"")


def files_of(release: Path) -> dict[str, Any]:
    return {"data_files": {"train": [str(release / "metadata.csv"), str(release / "images/**/*.png")]}}


@pytest.mark.parametrize("named", [files_of, lambda release: {"data_dir": str(release)}])
def test_datasets_loads_images_and_metadata(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: Callable[[Path], dict[str, Any]]
) -> None:
    """By the table and the images, and by nothing but the release's folder."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    loaded = datasets.load_dataset(
        "imagefolder", **named(release), split="train", cache_dir=str(tmp_path / "cache")
    )
    check_rows(loaded, release)


def test_a_release_keeps_the_rules_of_imagefolder(release: Path) -> None:
    """`FolderBasedBuilder` of `datasets`, wherever it is not installed: one table, which names every file.

    It takes each file of these names, however deep, for its table and wants one kind of them; folders of the
    names of splits would take images out of the rest.
    """
    own = {"metadata.csv", "metadata.jsonl", "metadata.parquet"}
    assert [path.name for path in release.rglob("*") if path.is_file() and path.name in own] == [
        "metadata.csv"
    ]
    table = pd.read_csv(release / "metadata.csv")
    assert all(not Path(name).is_absolute() and ".." not in Path(name).parts for name in table["file_name"])
    shown = {path.relative_to(release).as_posix() for path in release.glob("images/**/*.png")}
    assert shown == set(table["file_name"])


def test_the_card_as_readme_is_enough_for_datasets(release: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    (release / "DATASET_CARD.md").rename(release / "README.md")
    loaded = datasets.load_dataset(str(release), split="train", cache_dir=str(tmp_path / "cache"))
    check_rows(loaded, release)


def check_rows(loaded: Any, release: Path) -> None:
    table = pd.read_csv(release / "metadata.csv").set_index("sample_id")
    assert len(loaded) == NUM_IMAGES
    for row in loaded:
        expected = table.loc[row["sample_id"]]
        assert (row["class"], row["label"], row["synthetic"]) == (expected["class"], expected["label"], True)
        np.testing.assert_array_equal(np.asarray(row["image"]), pixels(release, expected["file_name"]))


def test_mlcroissant_validates_and_yields_every_record(release: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    dataset = mlcroissant.Dataset(jsonld=os.fspath(release / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    assert not dataset.metadata.ctx.issues.warnings
    table = pd.read_csv(release / "metadata.csv").set_index("sample_id")
    records = list(dataset.records(record_set="images"))
    assert len(records) == NUM_IMAGES
    for record in records:
        row = table.loc[record["images/sample_id"].decode()]
        assert record["images/label"] == row["label"]
        grey = np.asarray(record["images/image"].convert("L"))
        np.testing.assert_array_equal(grey, pixels(release, row["file_name"]))


def test_the_croissant_file_has_what_version_1_0_requires(release: Path) -> None:
    body = json.loads((release / "croissant.json").read_text())
    assert body["@type"] == "sc:Dataset"
    assert body["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    required = {"@context", "name", "description", "license", "creator", "datePublished", "citeAs", "version"}
    assert required <= body.keys()
    resources = {part["@id"] for part in body["distribution"]}
    fields = body["recordSet"][0]["field"]
    for field in fields:
        named = field["source"].get("fileObject") or field["source"]["fileSet"]
        assert named["@id"] in resources
    columns = set(pd.read_csv(release / "metadata.csv").columns)
    assert {f["source"]["extract"]["column"] for f in fields if "fileObject" in f["source"]} == columns
    assert len({field["@id"] for field in fields}) == len(fields)
