"""Sites: cohorts of few scans, drawn patient by patient from a large cohort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.arrays import Ints
from pipeline.artifacts.cohort import (
    ATTRIBUTES_NAME,
    FINDINGS_NAME,
    PATIENTS_NAME,
    Cohort,
    CohortInfo,
)
from pipeline.artifacts.pixels import to_model_range, write_shard
from pipeline.config import Settings
from pipeline.evaluate.truth import patient_numbers
from pipeline.records import SPLITS, CohortRef
from pipeline.stage import StageInputs
from pipeline.storage import digest_of, write_json, write_npy, write_parquet

ROWS_A_SHARD = 1024


@dataclass(frozen=True)
class Site:
    """Rows of a cohort that a site holds.

    Attributes:
        rows: split -> row numbers, ascending.
    """

    rows: Mapping[str, Ints]


def elsewhere_and_here(cohort: Cohort, share: float, seed: int) -> tuple[Ints, Ints]:
    """Return the train rows of two sets of patients: those of another hospital, and those of the sites.

    Patients are drawn class by class, by the class of their first scan, so that both sets have all classes.

    Args:
        cohort: the whole cohort.
        share: share of the patients of the first set.
        seed: seed of the study.
    """
    rows = cohort.rows("train")
    patients = patient_numbers(cohort)[rows]
    names, first = np.unique(patients, return_index=True)
    classes = np.asarray(cohort.labels)[rows[first]]
    rng = np.random.default_rng([seed, 3])
    drawn = [
        own[: max(round(share * len(own)), 1)]
        for own in (rng.permutation(names[classes == label]) for label in np.unique(classes))
    ]
    there = np.isin(patients, np.concatenate(drawn))
    return rows[there], rows[~there]


def draw_site(
    cohort: Cohort, among: Ints, counts: Mapping[int, int | None], *, seed: int, draw: int, holdout: bool
) -> Site:
    """Draw the scans of a site, patient by patient, with as many val scans as train scans.

    A site that has few scans to train on has few to choose by.

    Args:
        cohort: the whole cohort.
        among: train rows to draw from.
        counts: class -> number of scans; None takes all.
        seed: seed of the study.
        draw: number of the draw.
        holdout: whether the site also has the cohort's holdout, which a privacy gate needs.
    """
    patients, labels = patient_numbers(cohort), np.asarray(cohort.labels)
    found: dict[str, Ints] = {}
    for k, (split, pool) in enumerate((("train", among), ("val", cohort.rows("val")))):
        rng = np.random.default_rng([seed, 4, draw, k])
        order = rng.permutation(np.unique(patients[pool]))
        place = np.empty(int(patients.max()) + 1, dtype=np.int64)
        place[order] = np.arange(len(order))
        # The scans of one patient stand together, in random order of the patients.
        ordered = pool[np.argsort(place[patients[pool]], kind="stable")]
        parts = []
        for label, count in counts.items():
            own = ordered[labels[ordered] == label]
            parts.append(own if count is None else own[:count])
        found[split] = np.sort(np.concatenate(parts))
    if holdout:
        found["holdout"] = cohort.rows("holdout")
    return Site(found)


def write_site(cohort: Cohort, site: Site, out: Path) -> CohortRef:
    """Write a site as a cohort of its own; one that is there already is reused.

    Raises:
        OutputExistsError: `out` holds something else.
    """
    rows = np.concatenate([site.rows[split] for split in SPLITS if split in site.rows])
    split = np.concatenate(
        [np.full(len(site.rows[name]), code) for code, name in enumerate(SPLITS) if name in site.rows]
    ).astype(np.uint8)
    inputs = {"cohort": cohort.digest, "rows": digest_of([rows.tolist(), split.tolist()])}
    with StageInputs(CohortRef, inputs, Settings()).open(out) as stage:
        if stage.finished is not None:
            return stage.finished
        names = [
            write_shard(stage.path, number, cohort.take(rows[first : first + ROWS_A_SHARD]))
            for number, first in enumerate(range(0, len(rows), ROWS_A_SHARD))
        ]
        labels = np.asarray(cohort.labels)[rows]
        arrays = {"labels.npy": labels.astype(np.int32), "split.npy": split}
        if cohort.info.findings:
            arrays[FINDINGS_NAME] = cohort.findings()[rows]
        if cohort.info.attributes:
            arrays[ATTRIBUTES_NAME] = cohort.attributes()[rows]
        patients = patient_numbers(cohort)[rows]
        if cohort.info.findings or cohort.info.attributes:
            arrays[PATIENTS_NAME] = np.unique(patients, return_inverse=True)[1].astype(np.int32)
        for name, array in arrays.items():
            write_npy(stage.path / name, array, private=True)
        records = cohort.records().iloc[rows].reset_index(drop=True)
        records["split"] = [SPLITS[code] for code in split]
        records["audit"] = ""
        write_parquet(stage.path / "records.parquet", records, private=True)
        train = to_model_range(cohort.take(site.rows["train"]))
        info = CohortInfo(
            **{
                **cohort.info.model_dump(),
                "num_scans": len(rows),
                "num_patients": len(np.unique(patients)),
                "counts": {
                    name: {
                        label: int(((split == code) & (labels == k)).sum())
                        for k, label in enumerate(cohort.info.classes)
                    }
                    for code, name in enumerate(SPLITS)
                },
                "patients": {
                    name: len(np.unique(patients[split == code])) for code, name in enumerate(SPLITS)
                },
                "pixel_mean": float(train.mean()),
                "pixel_std": max(float(train.std()), 1e-6),
                "patient_ids": None,
                "notes": ("a site of a study, drawn from a larger cohort",),
            }
        )
        write_json(stage.path / "cohort.json", info.model_dump(mode="json"), private=True)
        files = [*names, *arrays, "records.parquet", "cohort.json"]
        return stage.finish(files=files, counts={"scans": len(rows)})
