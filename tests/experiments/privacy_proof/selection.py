"""Cohorts made of rows of another cohort: few train scans, or scans that stand in train many times."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort, CohortInfo
from pipeline.artifacts.pixels import to_model_range, write_shard
from pipeline.config import Settings
from pipeline.records import SPLITS, CohortRef
from pipeline.stage import open_stage
from pipeline.storage import digest_of, write_json, write_npy, write_parquet

ROWS_A_SHARD = 4096


class _NoSettings(Settings):
    pass


def select(cohort: Cohort, folder: Path, rows: Ints, split: Ints) -> CohortRef:
    """Write the cohort of `rows` (n,), which may repeat, each in the split of this position in SPLITS (n,).

    Patients keep their pseudonyms and, in train and holdout, the fall of their coins; a row that repeats is
    one scan of one patient several times.
    """
    order = np.argsort(split, kind="stable")
    rows, split = rows[order], split[order].astype(np.uint8)
    with open_stage(
        CohortRef,
        folder,
        inputs={"cohort": cohort.digest, "rows": digest_of([rows.tolist(), split.tolist()])},
        settings=_NoSettings(),
        seed=0,
    ) as stage:
        if stage.finished is not None:
            return stage.finished
        pixels, labels = cohort.take(rows), np.asarray(cohort.labels)[rows]
        shards = [
            write_shard(folder, number, pixels[first : first + ROWS_A_SHARD])
            for number, first in enumerate(range(0, len(rows), ROWS_A_SHARD))
        ]
        write_npy(folder / "labels.npy", labels, private=True)
        write_npy(folder / "split.npy", split, private=True)
        table = cohort.records().iloc[rows].reset_index(drop=True)
        table["split"] = [SPLITS[code] for code in split]
        table["sample_id"] = [f"s-{place:016x}" for place in range(len(rows))]
        write_parquet(folder / "records.parquet", table, private=True)
        classes, train = cohort.info.classes, to_model_range(pixels[split == 0])
        info = CohortInfo(
            name=f"{cohort.info.name} selection",
            classes=classes,
            image_size=cohort.info.image_size,
            bit_depth=cohort.info.bit_depth,
            has_patient_ids=cohort.info.has_patient_ids,
            num_scans=len(rows),
            num_patients=table["patient_id"].nunique(),
            counts={
                name: {label: int(((split == code) & (labels == k)).sum()) for k, label in enumerate(classes)}
                for code, name in enumerate(SPLITS)
            },
            patients={name: table["patient_id"][split == code].nunique() for code, name in enumerate(SPLITS)},
            pixel_mean=float(train.mean()),
            pixel_std=float(train.std()),
        )
        write_json(folder / "cohort.json", info.model_dump(mode="json"), private=True)
        files = ["cohort.json", "records.parquet", "labels.npy", "split.npy", *shards]
        return stage.finish(files, {"scans": len(rows), "patients": info.num_patients})


def few_train_scans(cohort: Cohort, folder: Path, count: int) -> CohortRef:
    """Write the cohort with `count` train scans, half of them of audit patients, and the whole holdout.

    Whole patients are taken, one after another in a drawn order, until there are enough scans.
    """
    rng, table = np.random.default_rng(0), cohort.records()
    train, kept = cohort.rows("train"), []
    for role in ("in", ""):
        rows = train[table["audit"].to_numpy()[train] == role]
        names = table["patient_id"].to_numpy()[rows]
        place = {name: number for number, name in enumerate(rng.permutation(np.unique(names)))}
        order = np.argsort([place[name] for name in names], kind="stable")
        kept.append(rows[order][: count // 2])
    return _with_others(cohort, folder, np.concatenate(kept), np.empty(0, dtype=np.int64))


def with_canaries(cohort: Cohort, folder: Path, canaries: Ints, times: Ints) -> CohortRef:
    """Write the cohort with val scans `canaries` (n,) in train as well, each `times` (n,) times or never."""
    repeated = np.repeat(canaries, times)
    return _with_others(cohort, folder, np.concatenate([cohort.rows("train"), repeated]), canaries)


def _with_others(cohort: Cohort, folder: Path, train: Ints, left_out: Ints) -> CohortRef:
    rows, split = [train], [np.zeros(len(train), dtype=np.int64)]
    for code, name in enumerate(SPLITS[1:], start=1):
        others = np.setdiff1d(cohort.rows(name), left_out)
        rows.append(others)
        split.append(np.full(len(others), code))
    return select(cohort, folder, np.concatenate(rows), np.concatenate(split))
