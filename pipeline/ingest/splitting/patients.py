"""Checks of patient ids before and after the split: look-alikes, stand-ins, the patient with most scans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from pipeline.arrays import Bools, Codes
from pipeline.artifacts.cohort import PatientIds
from pipeline.errors import DataError
from pipeline.sources.base import OWN_PATIENT, ScanTask
from pipeline.sources.tables.patient_ids import alike_numbers, crowded, looks_of

LARGE_SHARE = 0.05
"""Share of the scans above which a patient is reported: half the size of a split of 10 %."""

LARGE_TIMES = 3
"""Multiple of the mean share that the patient must also exceed: in small cohorts every share is large."""


def listed_ids(tasks: Iterable[ScanTask]) -> PatientIds:
    """Return statistics of the patient ids that are known before scans are read; ids in headers are not."""
    scans = Counter(
        task.patient
        for task in tasks
        if task.patient is not None and not task.refusal and not task.patient.startswith(OWN_PATIENT)
    )
    alike = np.array(alike_numbers(map(looks_of, scans)), dtype=np.int64)
    return _described(alike, np.array(list(scans.values()), dtype=np.int64))


def split_ids(patients: Codes, alike: Codes, side: Codes) -> PatientIds:
    """Return statistics of the patient ids of a cohort.

    Args:
        patients: (N,) patient number of each record.
        alike: (P,) group of each patient; the ids of a group look alike.
        side: (N,) split of each record.
    """
    if not len(patients):
        return PatientIds()
    present = np.unique(patients)
    shared = _shared(alike[present])
    looks = alike[patients]
    pairs = np.unique(np.stack([looks, side], axis=1)[np.isin(looks, shared)], axis=0)[:, 0]
    crossing = int((np.unique(pairs, return_counts=True)[1] > 1).sum())
    return _described(alike[present], np.bincount(patients)[present], on_two_sides=crossing)


def crowded_rows(usable: Bools, patients: Codes, doubtful: Bools) -> Bools:
    """Return (N,) True for scans whose doubtful id names nobody: it has far more scans than any other id.

    Args:
        usable: (N,) True for scans that count.
        patients: (N,) patient number of each scan.
        doubtful: (P,) True for patients whose id may name nobody.
    """
    numbers, scans = np.unique(patients[usable & (patients >= 0)], return_counts=True)
    counted = dict(zip(numbers.tolist(), scans.tolist(), strict=True))
    nobody = crowded(counted, set(np.flatnonzero(doubtful).tolist()))
    return usable & np.isin(patients, list(nobody))


def id_notes(ids: PatientIds) -> list[str]:
    """Return notes on the ids for the cohort's reader, one sentence each, without any id."""
    notes = [look_alikes(ids)] if ids.look_alike else []
    if is_large(ids):
        notes.append(
            f"one patient has {largest_share(ids)}, which all stand on one side of the split: "
            "check that this id is not written where the patient is unknown"
        )
    return notes


def is_large(ids: PatientIds) -> bool:
    """Return whether one patient has so many scans that a person should check the id."""
    return ids.largest > max(LARGE_SHARE, LARGE_TIMES / max(ids.patients, 1)) * ids.scans


def largest_share(ids: PatientIds) -> str:
    """Return the number and share of the scans of the patient with most scans, in words."""
    return f"{ids.largest} of {ids.scans} scans ({100 * ids.largest / max(ids.scans, 1):.1f} %)"


def look_alikes(ids: PatientIds) -> str:
    """Return the number of ids that look alike, in words."""
    text = (
        f"{ids.look_alike} patient ids look alike (leading zeros, case, marks between, other forms of one "
        f"character) and count as {ids.look_alike} patients; they would be {ids.would_be}"
    )
    return (
        text
        if ids.on_two_sides is None
        else f"{text}, of whom {ids.on_two_sides} stand on two sides of the split"
    )


def refuse_look_alikes(ids: PatientIds) -> None:
    """Refuse data whose patient ids look alike.

    Raises:
        DataError: some ids look alike; the message has the counts.
    """
    if ids.look_alike:
        raise DataError(
            look_alikes(ids),
            field="patient",
            remedy="Write each id in one way in tables, file names and headers, or take all ids from one "
            "table with patient.column. If they are different patients of several sources, distinguish them "
            "with patient.prefix. Without --set ingest.strict=true such ids are only reported.",
        )


def _shared(alike: Codes) -> Codes:
    numbers, ids = np.unique(alike, return_counts=True)
    return numbers[ids > 1]


def _described(alike: Codes, scans: Codes, *, on_two_sides: int | None = None) -> PatientIds:
    shared = _shared(alike)
    return PatientIds(
        scans=int(scans.sum()),
        patients=len(scans),
        largest=int(scans.max(initial=0)),
        look_alike=int(np.isin(alike, shared).sum()),
        would_be=len(shared),
        on_two_sides=on_two_sides,
    )
