"""The patients of a private training: the units that its guarantee protects."""

from __future__ import annotations

import numpy as np

from pipeline.arrays import Ints
from pipeline.artifacts.cohort import PATIENTS_NAME, Cohort


def train_patients(cohort: Cohort) -> list[Ints]:
    """Return the train rows of each patient, in a fixed order; without patient ids each scan is its own."""
    rows = cohort.rows("train")
    if cohort.info.has_patient_ids and not (cohort.folder / PATIENTS_NAME).is_file():
        names = cohort.records()["patient_id"].to_numpy()[rows]
    else:
        names = np.asarray(cohort.patients())[rows]
    _, patient = np.unique(names, return_inverse=True)
    order = np.argsort(patient, kind="stable")
    return np.split(rows[order], np.cumsum(np.bincount(patient))[:-1])
