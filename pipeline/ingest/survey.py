"""Decides from the parts' descriptions which scan is kept, and on which side of the split it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.ingest.duplicates import Duplicates, find_duplicates, joined_patients, pattern_counts
from pipeline.ingest.parts import read_rows
from pipeline.ingest.published import SharedPatients, shared_patients
from pipeline.ingest.settings import IngestSettings
from pipeline.ingest.splits import AUDIT_NONE, Codes, Split, split_scans
from pipeline.records import SPLITS

IN_TEST = "patient stands in the kept test split"
TEST_DUPLICATE = "exact duplicate of a test scan"
MAPPED_LABEL = "label not among the classes"


@dataclass
class Overview:
    """Everything about all scans that is needed to split them, in small arrays.

    Attributes:
        kept: (N,) True for scans that become records.
        reasons: scan number -> reason, for those refused while splitting (not while reading).
        labels: (N,) class of each scan, -1 without one.
        split: the split of the kept scans, spread over all scans.
        duplicates: exact duplicates among all readable scans.
        duplicate_parts: duplicate groups by published part, before anything was dropped.
        duplicate_sides: duplicate groups by split, among records.
        shared: patients shared by parts of the published splits.
        patients: (N,) patient number, -1 unknown.
        num_joined: patients that had to stay together because of exact duplicates.
    """

    kept: npt.NDArray[np.bool_]
    reasons: dict[int, str]
    labels: Codes
    split: Split
    duplicates: Duplicates
    duplicate_parts: dict[str, int]
    duplicate_sides: dict[str, int]
    shared: list[SharedPatients]
    patients: Codes
    num_joined: int


@dataclass
class _Facts:
    readable: npt.NDArray[np.bool_]
    patients: Codes
    hashes: npt.NDArray[np.void]
    draws: list[str] = field(default_factory=list)
    numbers: dict[bytes, int] = field(default_factory=dict)

    def with_claims(self, claims: dict[int, str]) -> Codes:
        """Return the patient numbers with claimed patients put in."""
        patients = self.patients.copy()
        extra = dict(self.numbers) if claims else {}
        for row, pseudonym in claims.items():
            patients[row] = extra.setdefault(_short(pseudonym), len(extra))
        return patients


def survey(
    folder: Path,
    num_parts: int,
    *,
    labels: Codes,
    published: dict[str, list[str]],
    classes: tuple[str, ...],
    settings: IngestSettings,
    kept_test: npt.NDArray[np.bool_],
    claims: dict[int, str],
    keeps_test: bool,
) -> Overview:
    """Read the parts' descriptions and decide which scan is kept, and on which side.

    Args:
        folder: where the parts lie.
        num_parts: their number.
        labels: (N,) class of each scan, -1 where the manifest gives none.
        published: part of each scan, by published split.
        classes: class names.
        settings: ingest settings.
        kept_test: (N,) True for scans of the published test part that is kept.
        claims: scan number -> patient pseudonym that a table merely claims, for the published splits' report.
        keeps_test: whether there is such a part.
    """
    facts = _gather(folder, num_parts, len(labels))
    reasons = {int(row): MAPPED_LABEL for row in np.flatnonzero(facts.readable & (labels < 0))}
    usable = facts.readable & (labels >= 0)
    found = find_duplicates(facts.hashes[usable], labels[usable])
    group = np.full(len(labels), -1, dtype=np.int64)
    size = np.zeros(len(labels), dtype=np.int64)
    group[usable], size[usable] = found.group, found.size
    duplicates = Duplicates(group, size, found.num_groups, found.conflicting)
    first = next(iter(published.values()), [""] * len(labels))
    duplicate_parts = pattern_counts(duplicates, first)

    test = usable & kept_test
    test_patients = np.isin(facts.patients, np.unique(facts.patients[test]))
    test_pixels = np.isin(group, np.unique(group[test]))
    for row in np.flatnonzero(usable & ~test & (test_patients | test_pixels)).tolist():
        reasons[row] = IN_TEST if test_patients[row] else TEST_DUPLICATE
        usable[row] = False

    rows = np.flatnonzero(usable)
    pool_only = Duplicates(group[rows], np.where(test[rows], 1, size[rows]), 0, 0)
    groups = joined_patients(facts.patients[rows], pool_only, np.ones(len(rows), dtype=bool))
    draws = _group_draws(groups, facts.patients[rows], facts.draws)
    split = split_scans(
        groups,
        draws,
        labels[rows],
        kept_test=test[rows],
        classes=classes,
        settings=settings,
        keeps_test=keeps_test,
    )
    side = np.full(len(labels), -1, dtype=np.int64)
    audit = np.full(len(labels), AUDIT_NONE, dtype=np.int64)
    side[rows], audit[rows] = split.side, split.audit
    kept_groups = Duplicates(group, np.where(usable, size, 0), 0, 0)
    return Overview(
        kept=usable,
        reasons=reasons,
        labels=labels,
        split=Split(side, audit, split.moved),
        duplicates=duplicates,
        duplicate_parts=duplicate_parts,
        duplicate_sides=pattern_counts(kept_groups, [SPLITS[code] if code >= 0 else "" for code in side]),
        shared=[shared_patients(name, parts, facts.with_claims(claims)) for name, parts in published.items()],
        patients=facts.patients,
        num_joined=len(np.unique(facts.patients[rows])) - len(draws),
    )


def _gather(folder: Path, num_parts: int, num_scans: int) -> _Facts:
    facts = _Facts(
        readable=np.zeros(num_scans, dtype=bool),
        patients=np.full(num_scans, -1, dtype=np.int64),
        hashes=np.zeros(num_scans, dtype="V16"),
    )
    numbers = facts.numbers
    at = 0
    for number in range(num_parts):
        for row in read_rows(folder, number):
            if row.patient_id:
                known = len(numbers)
                code = numbers.setdefault(_short(row.patient_id), known)
                if code == known:
                    facts.draws.append(row.draw)
                facts.patients[at] = code
            if not row.reason:
                facts.readable[at] = True
                facts.hashes[at] = np.void(bytes.fromhex(row.pixel_hash))
            at += 1
    return facts


def _short(pseudonym: str) -> bytes:
    """The eight bytes that a patient pseudonym shows in hex: a quarter of the memory of its text."""
    return bytes.fromhex(pseudonym[2:])


def _group_draws(groups: Codes, patients: Codes, draws: list[str]) -> list[str]:
    """A group takes the smallest draw of its patients, whatever their order."""
    best: list[str] = ["g"] * (int(groups.max(initial=-1)) + 1)
    for group, patient in np.unique(np.stack([groups, patients], axis=1), axis=0).tolist():
        best[group] = min(best[group], draws[patient])
    return best
