"""What patient ids are like, before and after the split: look-alikes, stand-ins, the largest patient."""

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
"""Share of the scans from which a patient is told: half of what a split of a tenth holds hangs on one person.
In a small cohort every share is large, so it must also be `LARGE_TIMES` an even one."""

LARGE_TIMES = 3


def listed_ids(tasks: Iterable[ScanTask]) -> PatientIds:
    """Return what is known of the patient ids before a scan is read; ids in headers are not."""
    scans = Counter(
        task.patient
        for task in tasks
        if task.patient is not None and not task.refusal and not task.patient.startswith(OWN_PATIENT)
    )
    alike = np.array(alike_numbers(map(looks_of, scans)), dtype=np.int64)
    return _described(alike, np.array(list(scans.values()), dtype=np.int64))


def split_ids(patients: Codes, alike: Codes, side: Codes) -> PatientIds:
    """Return what the ids of a cohort's patients are like.

    Args:
        patients: (N,) patient number of each record.
        alike: (P,) number of what the id of each patient looks like.
        side: (N,) side of the split of each record.
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
    """Return (N,) True for scans whose doubtful id names nobody, as it has far more scans than any other.

    Args:
        usable: (N,) scans that count.
        patients: (N,) patient number of each scan.
        doubtful: (P,) patients whose id may name nobody.
    """
    numbers, scans = np.unique(patients[usable & (patients >= 0)], return_counts=True)
    counted = dict(zip(numbers.tolist(), scans.tolist(), strict=True))
    nobody = crowded(counted, set(np.flatnonzero(doubtful).tolist()))
    return usable & np.isin(patients, list(nobody))


def id_notes(ids: PatientIds) -> list[str]:
    """Return what a reader should know of the ids, one sentence each, without any of them."""
    notes = [look_alikes(ids)] if ids.look_alike else []
    if is_large(ids):
        notes.append(
            f"one patient has {largest_share(ids)}, which all stand on one side of the split: "
            "check that this id is not written where the patient is unknown"
        )
    return notes


def is_large(ids: PatientIds) -> bool:
    """Tell whether one patient has so many scans that a person should look at it."""
    return ids.largest > max(LARGE_SHARE, LARGE_TIMES / max(ids.patients, 1)) * ids.scans


def largest_share(ids: PatientIds) -> str:
    """Return the largest patient's part of the scans in words."""
    return f"{ids.largest} of {ids.scans} scans ({100 * ids.largest / max(ids.scans, 1):.1f} %)"


def look_alikes(ids: PatientIds) -> str:
    """Return how many ids look alike, in words."""
    told = (
        f"{ids.look_alike} patient ids look alike (leading zeros, case, marks between, other forms of one "
        f"character) and count as {ids.look_alike} patients; they would be {ids.would_be}"
    )
    return (
        told
        if ids.on_two_sides is None
        else f"{told}, of whom {ids.on_two_sides} stand on two sides of the split"
    )


def refuse_look_alikes(ids: PatientIds) -> None:
    """Refuse data whose patient ids look alike.

    Raises:
        DataError: some do; the message has the counts.
    """
    if ids.look_alike:
        raise DataError(
            look_alikes(ids),
            field="patient",
            remedy="Write each id in one way in table, name and header; where only some of them differ, take "
            "the id of all scans from one table with patient.column. Where they are different patients of "
            "several sources, tell them apart with patient.prefix. Without --set ingest.strict=true they are "
            "only told.",
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
