"""Decides from the facts about all scans which scans are kept, and in which split each of them is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Bools, Codes
from pipeline.artifacts.cohort import PatientIds
from pipeline.ingest.duplicates.duplicates import (
    Duplicates,
    beyond_exact,
    crossing_groups,
    find_duplicates,
    joined_patients,
    pattern_counts,
    spread,
)
from pipeline.ingest.reading.facts import Facts
from pipeline.ingest.settings import IngestSettings
from pipeline.ingest.splitting.patients import crowded_rows, id_notes, refuse_look_alikes, split_ids
from pipeline.ingest.splitting.published import PublishedSplit, check_published, refuse_leaks
from pipeline.ingest.splitting.rows import check_refusals
from pipeline.ingest.splitting.splits import AUDIT_NONE, TEST, Split, split_scans
from pipeline.records import SPLITS
from pipeline.sources.tables.patient_ids import STAND_IN

IN_TEST = "patient stands in the kept test split"
TEST_DUPLICATE = "exact duplicate of a test scan"
TEST_ALIKE = "near-duplicate of a test scan"
MAPPED_LABEL = "label not among the classes"

KNOWN = "patients of an earlier cohort keep their split and audit role"
KEPT_KNOWN = "patients of the kept test part stay in another split, theirs in the earlier cohort"
CROSSING = "images stand on two sides because both patients had theirs before"
CROSSING_ALIKE = "groups of near-duplicates stand on two sides because both patients had theirs before"
MOVED = "patients left their drawn place so that each class and finding keeps its share"


@dataclass
class Overview:
    """Result of the survey of N scans.

    Attributes:
        kept: (N,) True for scans that become records.
        reasons: scan number -> reason, for scans refused while splitting (not while reading).
        labels: (N,) class of each scan, -1 without one.
        split: split of all scans, -1 for scans that are not kept.
        duplicates: exact duplicates among the usable scans.
        duplicate_parts: published part -> number of groups of exact duplicates, before any scan was dropped.
        duplicate_sides: split -> number of groups of exact duplicates among the records.
        shared: overlap of the parts of each published split.
        patients: (N,) patient number, -1 if unknown.
        ids: statistics of the ids of the records' patients.
        num_joined: number of patients joined with another because of equal or similar images.
        alike: near-duplicates without the exact ones; None without a search for them.
        crossing: numbers of groups of equal and of similar images on two sides, because their patients were
            on these sides in the earlier cohort.
        num_known: number of patients among the records that an earlier cohort has.
        num_kept_known: number of patients of the kept test part that stay on another side, as in the earlier
            cohort.
    """

    kept: Bools
    reasons: dict[int, str]
    labels: Codes
    split: Split
    duplicates: Duplicates
    duplicate_parts: dict[str, int]
    duplicate_sides: dict[str, int]
    shared: list[PublishedSplit]
    patients: Codes
    ids: PatientIds
    num_joined: int
    alike: Duplicates | None = None
    crossing: tuple[int, int] = (0, 0)
    num_known: int = 0
    num_kept_known: int = 0

    def notes(self) -> list[str]:
        """Return notes on the split for the cohort's reader, one sentence each, without ids."""
        notes = id_notes(self.ids)
        notes += [note for shared in self.shared for note in shared.notes()]
        found = self.duplicates
        if found.num_groups:
            where = ", ".join(f"{count} in {parts}" for parts, count in self.duplicate_parts.items() if parts)
            notes.append(
                f"{found.num_groups} groups of exact duplicate images{f' ({where})' if where else ''}"
            )
        if found.conflicting:
            notes.append(f"{found.conflicting} groups of exact duplicates have different labels")
        if self.alike is not None and self.alike.num_groups:
            notes.append(f"{self.alike.num_groups} groups of near-duplicate images")
        counted = {
            "patients were kept on one side with another of equal or alike images": self.num_joined,
            KNOWN: self.num_known,
            KEPT_KNOWN: self.num_kept_known,
            CROSSING: self.crossing[0],
            CROSSING_ALIKE: self.crossing[1],
            MOVED: self.split.moved,
        }
        return notes + [f"{count} {text}" for text, count in counted.items() if count]


def is_of_the_draw(note: str) -> bool:
    """Return whether a note tells how the split came about, which may differ for the same scans."""
    return note.partition(" ")[2] in (KNOWN, KEPT_KNOWN, CROSSING, CROSSING_ALIKE, MOVED)


def survey(
    facts: Facts,
    *,
    labels: Codes,
    published: dict[str, list[str]],
    classes: tuple[str, ...],
    settings: IngestSettings,
    kept_test: Bools,
    claims: dict[int, str],
    keeps_test: bool,
    findings: Bools | None = None,
    alike: Duplicates | None = None,
    join_alike: bool = True,
) -> Overview:
    """Decide which scans are kept, and in which split each of them is.

    A scan that shares its patient or image with a kept test part is dropped from the other splits. A patient
    that was on another side in the earlier cohort stays there with all scans, whatever the published split
    says: a model may have seen this patient.

    Args:
        facts: facts about all scans, with the places of patients in an earlier cohort.
        labels: (N,) class of each scan, -1 if the manifest gives none.
        published: published split -> part of each scan.
        classes: class names.
        settings: ingest settings.
        kept_test: (N,) True for scans of the published test part that is kept.
        claims: scan number -> patient pseudonym that a table merely claims, to check published splits.
        keeps_test: whether a published test part is kept.
        findings: (N, K) findings of each scan besides its class, to stratify by.
        alike: groups of similar images over all scans, which may include exact duplicates.
        join_alike: whether similar images are kept on one side; otherwise they are only counted.

    Raises:
        DataError: a class is too small to split, the ids of too many scans name nobody, or `settings.strict`
            refuses a published split or ids that look alike.
    """
    reasons = {int(row): MAPPED_LABEL for row in np.flatnonzero(facts.readable & (labels < 0))}
    usable = facts.readable & (labels >= 0)
    usable, nobody = _without_stand_ins(usable, facts, settings)
    reasons |= dict.fromkeys(nobody, STAND_IN)
    exact = spread(find_duplicates(facts.hashes[usable], labels[usable]), usable)
    near = beyond_exact(alike, exact, labels, usable) if alike is not None else None
    claimed = facts.with_claims(claims)
    shared = [check_published(name, parts, claimed, exact, near) for name, parts in published.items()]
    if settings.strict:
        refuse_leaks(shared)

    test, num_kept_known = _kept_test(usable & kept_test, facts)
    joined = near if join_alike else None
    for row, reason in _leaks_into_test(usable, test, facts.patients, exact, joined).items():
        reasons[row], usable[row] = reason, False
    rows = np.flatnonzero(usable)
    groups = _groups(rows, test, facts, [exact] if joined is None else [exact, joined])
    split = _split(
        rows,
        groups,
        facts,
        labels,
        findings,
        test=test,
        classes=classes,
        settings=settings,
        keeps_test=keeps_test,
    )
    ids = split_ids(facts.patients[rows], facts.alike, split.side[rows])
    if settings.strict:
        refuse_look_alikes(ids)
    kept_groups = Duplicates(exact.group, np.where(usable, exact.size, 0), 0, 0)
    sides = [SPLITS[code] if code >= 0 else "" for code in split.side]
    present = np.unique(facts.patients[rows])
    return Overview(
        kept=usable,
        reasons=reasons,
        labels=labels,
        split=split,
        duplicates=exact,
        duplicate_parts=pattern_counts(exact, next(iter(published.values()), [""] * len(labels))),
        duplicate_sides=pattern_counts(kept_groups, sides),
        shared=shared,
        patients=facts.patients,
        ids=ids,
        num_joined=len(present) - (int(groups.max(initial=-1)) + 1),
        alike=near,
        crossing=(
            crossing_groups(exact, split.side),
            crossing_groups(joined, split.side) if joined is not None else 0,
        ),
        num_known=int((facts.known_side[present] >= 0).sum()),
        num_kept_known=num_kept_known,
    )


def _without_stand_ins(usable: Bools, facts: Facts, settings: IngestSettings) -> tuple[Bools, list[int]]:
    """Return the usable rows without those whose id names nobody, and the numbers of these rows."""
    nobody = crowded_rows(usable, facts.patients, facts.doubtful)
    if nobody.any():
        reasons = {STAND_IN: int(nobody.sum()), "cannot be read": int((~facts.readable).sum())}
        check_refusals(reasons, len(nobody), settings.max_reject_share)
    return usable & ~nobody, np.flatnonzero(nobody).tolist()


def _kept_test(test: Bools, facts: Facts) -> tuple[Bools, int]:
    """Return the rows of the test part without patients known on another side, and the number of these."""
    elsewhere = np.zeros_like(test)
    side = facts.known_side[facts.patients[test]]
    elsewhere[test] = (side >= 0) & (side != TEST)
    return test & ~elsewhere, len(np.unique(facts.patients[elsewhere]))


def _leaks_into_test(
    usable: Bools, test: Bools, patients: Codes, exact: Duplicates, near: Duplicates | None
) -> dict[int, str]:
    """Return scan number -> reason for scans outside the kept test part that share something with it."""
    reasons: dict[int, str] = {}
    checks = [(patients, IN_TEST), (exact.group, TEST_DUPLICATE)]
    checks += [(near.group, TEST_ALIKE)] if near is not None else []
    for codes, reason in checks:
        there = np.unique(codes[test & (codes >= 0)])
        for row in np.flatnonzero(usable & ~test & np.isin(codes, there)).tolist():
            reasons.setdefault(row, reason)
    return reasons


def _groups(rows: Codes, test: Bools, facts: Facts, groupings: Sequence[Duplicates]) -> Codes:
    among = [Duplicates(found.group[rows], found.size[rows], 0, 0) for found in groupings]
    place = np.where(facts.known_side < 0, -1, facts.known_side * len(SPLITS) + facts.known_audit)
    return joined_patients(facts.patients[rows], among, ~test[rows], draws=facts.draws, place=place)


def _split(
    rows: Codes,
    groups: Codes,
    facts: Facts,
    labels: Codes,
    findings: Bools | None,
    *,
    test: Bools,
    classes: tuple[str, ...],
    settings: IngestSettings,
    keeps_test: bool,
) -> Split:
    """Return the split of all scans, -1 for those not kept."""
    patients = facts.patients[rows]
    num_groups = int(groups.max(initial=-1)) + 1
    # A group takes the smallest draw of its patients, whatever their order, and the known place of any.
    draws = np.full(num_groups, np.iinfo(np.int64).max)
    np.minimum.at(draws, groups, facts.draws[patients])
    known = np.full((2, num_groups), -1, dtype=np.int64)
    for codes, of_patients in zip(known, (facts.known_side, facts.known_audit), strict=True):
        np.maximum.at(codes, groups, of_patients[patients])
    split = split_scans(
        groups,
        draws,
        labels[rows],
        kept_test=test[rows],
        classes=classes,
        settings=settings,
        keeps_test=keeps_test,
        findings=None if findings is None else findings[rows],
        known=(known[0], known[1]),
    )
    side = np.full(len(labels), -1, dtype=np.int64)
    audit = np.full(len(labels), AUDIT_NONE, dtype=np.int64)
    side[rows], audit[rows] = split.side, split.audit
    return Split(side, audit, split.moved)
