"""A small cohort and releases for it, written through the same protocol as the stages that make them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image

from pipeline.artifacts.cohort import RECORD_COLUMNS, CohortInfo
from pipeline.artifacts.pixels import from_model_range, to_model_range, write_shard
from pipeline.config import Settings
from pipeline.records import SPLITS, CohortRef, ReleaseRef, Verdict
from pipeline.stage import open_stage
from pipeline.storage import write_json, write_parquet

CLASSES = ("plain", "striped")
SIZE = 16
Pixels = npt.NDArray[np.uint8]


def draw(label: int, count: int, rng: np.random.Generator, contrast: float = 0.35) -> Pixels:
    """Noise on a random background; class 1 has faint stripes of random phase on top."""
    background = rng.normal(0.0, 0.25, (count, 1, 1, 1)) + rng.normal(0.0, 0.3, (count, 1, SIZE, SIZE))
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1, 1))
    stripes = np.sin(np.arange(SIZE)[None, None, None] * np.pi / 2 + phase)
    return from_model_range(background + contrast * label * stripes, 8)


def write_cohort(
    folder: Path,
    pixels: Pixels,
    labels: npt.NDArray[np.integer],
    split: list[str],
    patients: list[str],
    classes: tuple[str, ...] = CLASSES,
    findings: dict[str, npt.NDArray[np.uint8]] | None = None,
) -> CohortRef:
    with open_stage(CohortRef, folder, inputs={}, settings=Settings(), seed=0) as stage:
        names = [write_shard(stage.path, 0, pixels)]
        codes = np.array([SPLITS.index(name) for name in split], dtype=np.uint8)
        np.save(stage.path / "labels.npy", labels.astype(np.int64))
        np.save(stage.path / "split.npy", codes)
        table = pd.DataFrame({column: [""] * len(pixels) for column in RECORD_COLUMNS})
        table["sample_id"] = [f"s-{i:016x}" for i in range(len(pixels))]
        table["patient_id"], table["label"], table["split"] = patients, labels, split
        write_parquet(stage.path / "records.parquet", table, private=True)
        in_model_range = to_model_range(pixels)
        info = CohortInfo(
            name="stripes",
            classes=classes,
            image_size=(pixels.shape[2], pixels.shape[3]),
            bit_depth=8,
            has_patient_ids=True,
            num_scans=len(pixels),
            num_patients=len(set(patients)),
            counts={},
            patients={},
            pixel_mean=float(in_model_range.mean()),
            pixel_std=float(in_model_range.std()),
            findings=tuple(findings or ()),
        )
        write_json(stage.path / "cohort.json", info.model_dump(mode="json"), private=True)
        files = [*names, "labels.npy", "split.npy", "records.parquet", "cohort.json"]
        if findings:
            np.save(stage.path / "findings.npy", np.stack(list(findings.values()), axis=1))
            files.append("findings.npy")
        return stage.finish(files=files, counts={"scans": len(pixels)})


def write_release(
    folder: Path,
    pixels: Pixels,
    labels: npt.NDArray[np.integer],
    classes: tuple[str, ...] = CLASSES,
    findings: dict[str, npt.NDArray[np.uint8]] | None = None,
) -> ReleaseRef:
    with open_stage(ReleaseRef, folder, inputs={}, settings=Settings(), seed=0) as stage:
        rows, counters = [], [0] * len(classes)
        for image, label in zip(pixels, labels, strict=True):
            sample = f"{classes[label]}-{counters[label]:06d}"
            counters[label] += 1
            name = f"images/{classes[label]}/{sample}.png"
            (stage.path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(stage.path / name)
            rows.append(
                {
                    "sample_id": sample,
                    "file_name": name,
                    "class": classes[label],
                    "label": int(label),
                    "synthetic": True,
                }
            )
        table = pd.DataFrame(rows).assign(
            **{n: pd.array(v, dtype="Int8") for n, v in (findings or {}).items()}
        )
        write_parquet(stage.path / "metadata.parquet", table)
        files = ["metadata.parquet", *(row["file_name"] for row in rows)]
        return stage.finish(files=files, counts={"images": len(rows)}, verdict=Verdict.PASS)


def make_cohort(folder: Path, counts: dict[str, int], seed: int = 0) -> CohortRef:
    """`counts`: scans a class in each split; two scans a patient."""
    rng = np.random.default_rng(seed)
    pixels, labels, split, patients = [], [], [], []
    for name, count in counts.items():
        for label in range(len(CLASSES)):
            pixels.append(draw(label, count, rng))
            labels += [label] * count
            split += [name] * count
            patients += [f"p-{name}-{label}-{i // 2}" for i in range(count)]
    return write_cohort(folder, np.concatenate(pixels), np.array(labels), split, patients)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": 40, "val": 40, "test": 60, "holdout": 10}
    return make_cohort(tmp_path_factory.mktemp("cohort") / "cohort", counts).path


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More images of the very distribution that the real scans come from: a perfect generator."""
    rng = np.random.default_rng(99)
    pixels = np.concatenate([draw(0, 60, rng), draw(1, 60, rng)])
    return write_release(tmp_path_factory.mktemp("release") / "release", pixels, np.repeat([0, 1], 60)).path


@pytest.fixture
def release_of(tmp_path: Path) -> Callable[[Pixels, npt.NDArray[np.integer]], Path]:
    def build(pixels: Pixels, labels: npt.NDArray[np.integer]) -> Path:
        return write_release(tmp_path / f"release-{len(pixels)}", pixels, labels).path

    return build


@pytest.fixture(name="make_cohort")
def _make_cohort() -> Callable[[Path, dict[str, int]], CohortRef]:
    return make_cohort


@pytest.fixture
def one_class(tmp_path: Path) -> tuple[Path, Path]:
    """A cohort with a single class, and a release of it."""
    rng = np.random.default_rng(0)
    split = ["train"] * 20 + ["val"] * 10 + ["test"] * 10
    patients = [f"p-{i}" for i in range(40)]
    labels = np.zeros(40, dtype=np.int64)
    ref = write_cohort(tmp_path / "one", draw(0, 40, rng), labels, split, patients, classes=("plain",))
    images = write_release(tmp_path / "of-one", draw(0, 15, rng), labels[:15], classes=("plain",))
    return ref.path, images.path
