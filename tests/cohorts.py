"""Small cohorts with known truth, written through the real cohort layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.artifacts.cohort import (
    ATTRIBUTES,
    ATTRIBUTES_NAME,
    FINDINGS_NAME,
    PATIENTS_NAME,
    RECORD_COLUMNS,
    CohortInfo,
)
from pipeline.artifacts.pixels import StoredPixels, to_model_range, write_shard
from pipeline.config import Settings
from pipeline.ingest.writing.attributes import AttributeCodes
from pipeline.records import SPLITS, CohortRef
from pipeline.stage import open_stage
from pipeline.storage import digest_of, write_json, write_parquet

CLASSES = ("disc", "line", "ring")


class _NoSettings(Settings):
    pass


def draw(label: int, size: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return one (size, size) image of a class: a disc, a line or a ring, placed and textured at random."""
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    y, x = y - rng.uniform(-0.12, 0.12), x - rng.uniform(-0.12, 0.12)
    radius = np.hypot(x * rng.uniform(0.8, 1.2), y)
    wave = sum(
        rng.normal(0, 0.07) * np.cos(2 * np.pi * (fx * x + fy * y) + rng.uniform(0, 6.3))
        for fx in range(4)
        for fy in range(4)
    )
    shape = (radius < 0.25, np.abs(x - y * rng.uniform(-0.6, 0.6)) < 0.1, np.abs(radius - 0.28) < 0.07)[label]
    image = 0.35 + 0.35 * shape + wave + rng.normal(0, 0.02, (size, size))
    return np.clip(image * 255, 0, 255).astype(np.uint8)


def write_cohort(
    folder: Path,
    *,
    num_scans: int = 240,
    image_size: int = 32,
    num_classes: int = 3,
    seed: int = 0,
    images_per_patient: int = 2,
    has_patient_ids: bool = True,
    pixels: StoredPixels | None = None,
    labels: npt.NDArray[np.integer] | None = None,
    classes: tuple[str, ...] | None = None,
    shares: tuple[float, float, float, float] = (0.55, 0.1, 0.15, 0.2),
    split: npt.NDArray[np.integer] | None = None,
    attributes: Mapping[str, Sequence[str]] | None = None,
    findings: Mapping[str, Sequence[int] | npt.NDArray[np.integer]] | None = None,
) -> CohortRef:
    """Write a finished cohort of drawn images (or of given `pixels` (N, 1, H, W) and `labels` (N,)).

    Every second patient of train and holdout is an audit patient.
    Patients own `images_per_patient` consecutive scans of one class; splits are by patient, drawn in `shares`
    unless `split` gives the index in SPLITS of each scan. `attributes`
    gives a value a scan (empty for none) for some of sex, age_band and view; `findings` a state a scan for
    each name: 0 absent, 1 present, 2 uncertain.
    """
    findings = dict(sorted((findings or {}).items()))
    rng = np.random.default_rng(seed)
    if pixels is None or labels is None:
        labels = (np.arange(num_scans) // images_per_patient) % num_classes
        pixels = np.stack([draw(int(label), image_size, rng) for label in labels])[:, None]
    count = len(labels)
    names = classes or CLASSES[: int(labels.max()) + 1]
    patient = np.arange(count) // images_per_patient
    if split is None:
        split = rng.choice(len(SPLITS), size=int(patient.max()) + 1, p=shares)[patient]
    split = split.astype(np.uint8)
    split_of_patient = split[::images_per_patient]
    coin = {0: "in", 3: "out"}
    audit = [
        coin.get(int(side), "") if owner % 2 == 0 else "" for side, owner in zip(split, patient, strict=True)
    ]
    with open_stage(
        CohortRef,
        folder,
        inputs={"seed": digest_of([seed, count, image_size, has_patient_ids])},
        settings=_NoSettings(),
        seed=seed,
    ) as stage:
        if stage.finished is not None:
            return stage.finished
        shards = [write_shard(folder, i, pixels[i * 100 : (i + 1) * 100]) for i in range(-(-count // 100))]
        np.save(folder / "labels.npy", labels.astype(np.uint8))
        np.save(folder / "split.npy", split)
        columns: dict[str, object] = dict.fromkeys(RECORD_COLUMNS, "")
        columns |= {
            "sample_id": [f"s-{seed:04x}{i:012x}" for i in range(count)],
            "patient_id": [f"p-{seed:04x}{p:012x}" for p in patient],
            "label": [names[int(label)] for label in labels],
            "split": [SPLITS[code] for code in split],
            "audit": audit,
            "source_sha256": [digest_of([seed, i]) for i in range(count)],
            "original_height": pixels.shape[2],
            "original_width": pixels.shape[3],
            "spacing_mm": np.nan,
        }
        values = {name: list((attributes or {}).get(name, [""] * count)) for name in ATTRIBUTES}
        known, extra = _write_conditions(folder, values, findings, patient)
        write_parquet(folder / "records.parquet", pd.DataFrame(columns | values), private=True)
        train = to_model_range(pixels[split == 0])
        counts = {
            name: {names[k]: int(((split == code) & (labels == k)).sum()) for k in range(len(names))}
            for code, name in enumerate(SPLITS)
        }
        info = CohortInfo(
            name="drawn",
            classes=names,
            image_size=(pixels.shape[2], pixels.shape[3]),
            bit_depth=8 if pixels.dtype == np.uint8 else 16,
            has_patient_ids=has_patient_ids,
            num_scans=count,
            num_patients=len(split_of_patient),
            counts=counts,
            patients={name: int((split_of_patient == code).sum()) for code, name in enumerate(SPLITS)},
            pixel_mean=float(train.mean()),
            pixel_std=float(train.std()),
            license="CC0-1.0",
            findings=tuple(findings),
            attributes=known,
        )
        write_json(folder / "cohort.json", info.model_dump(mode="json"), private=True)
        files = ["cohort.json", "records.parquet", "labels.npy", "split.npy", *shards, *extra]
        return stage.finish(files, {"scans": count, "patients": len(split_of_patient)})


def _write_conditions(
    folder: Path,
    attributes: Mapping[str, Sequence[str]],
    findings: Mapping[str, Sequence[int] | npt.NDArray[np.integer]],
    patient: npt.NDArray[np.integer],
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Write what ingest writes beside the labels; return the attributes' values and the files' names."""
    collected = AttributeCodes()
    for row in zip(*attributes.values(), strict=True):
        collected.add(row)
    known, codes = collected.finish()
    written: dict[str, npt.NDArray[np.generic]] = {}
    if known:
        written[ATTRIBUTES_NAME] = codes
    if findings:
        written[FINDINGS_NAME] = np.stack([np.asarray(s, np.uint8) for s in findings.values()], axis=1)
    if written:
        written[PATIENTS_NAME] = patient.astype(np.int32)
    for name, array in written.items():
        np.save(folder / name, array)
    return known, list(written)
