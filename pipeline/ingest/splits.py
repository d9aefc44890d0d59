"""The patient-level split: drawn by hash, so that a patient keeps its side when others arrive."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import DataError
from pipeline.ingest.settings import IngestSettings
from pipeline.records import AUDIT_ROLES, SPLITS

TRAIN, VAL, TEST, HOLDOUT = range(4)
AUDIT_NONE, AUDIT_IN, AUDIT_OUT = range(3)

assert SPLITS == ("train", "val", "test", "holdout")
assert AUDIT_ROLES == ("", "in", "out")

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """The split by scan.

    Attributes:
        side: position in `SPLITS`, one a scan.
        audit: position in `AUDIT_ROLES`, one a scan.
        moved: how many patients (or groups of them) left their drawn side so that no split lacks a class.
    """

    side: Codes
    audit: Codes
    moved: int


def drawn_side(draw: str, settings: IngestSettings, *, draw_test: bool) -> tuple[int, int]:
    """Return (side, audit role) of a patient by its draw alone.

    Args:
        draw: hex digits; the first eight place the patient in [0, 1), the ninth is the coin.
        settings: the shares.
        draw_test: whether a test split is drawn (no published one is kept).
    """
    place = int(draw[:8], 16) / 2.0**32
    edge = settings.test_share if draw_test else 0.0
    if place < edge:
        return TEST, AUDIT_NONE
    if place < (edge := edge + settings.val_share):
        return VAL, AUDIT_NONE
    if place < (edge := edge + settings.holdout_share):
        return HOLDOUT, AUDIT_NONE
    if place < edge + settings.audit_share:
        heads = int(draw[8], 16) % 2 == 0
        return (TRAIN, AUDIT_IN) if heads else (HOLDOUT, AUDIT_OUT)
    return TRAIN, AUDIT_NONE


def split_scans(
    groups: Codes,
    draws: list[str],
    labels: Codes,
    *,
    kept_test: npt.NDArray[np.bool_],
    classes: tuple[str, ...],
    settings: IngestSettings,
    keeps_test: bool,
) -> Split:
    """Split scans so that all scans of a group of patients stand on one side.

    Every side follows from the group's own draw; only where a split would lack a class are single groups
    moved, in the order of their draws, so that tiny cohorts can be used at all.

    Args:
        groups: (N,) group of each scan: its patient, joined with patients that share an exact duplicate.
        draws: hex draw of each group.
        labels: (N,) class of each scan.
        kept_test: (N,) True for scans of a published test part that is kept; their groups hold no others.
        classes: class names.
        settings: shares.
        keeps_test: whether a published test part is kept (then none is drawn).

    Raises:
        DataError: a class has too few scans or patients to stand in train and test.
    """
    num_groups = len(draws)
    side_of = np.full(num_groups, TEST, dtype=np.int64)
    audit_of = np.zeros(num_groups, dtype=np.int64)
    in_pool = np.ones(num_groups, dtype=bool)
    in_pool[groups[kept_test]] = False
    for group in np.flatnonzero(in_pool):
        side_of[group], audit_of[group] = drawn_side(draws[group], settings, draw_test=not keeps_test)
    _check_classes(groups, labels, kept_test, classes, keeps_test=keeps_test)
    wanted = [TRAIN] if keeps_test else [TRAIN, TEST]
    wanted += [HOLDOUT] if settings.holdout_share + settings.audit_share > 0 else []
    wanted += [VAL] if settings.val_share > 0 else []
    members = _classes_of_groups(groups, labels, num_groups)
    moved = _fill(side_of, audit_of, draws, members, in_pool=in_pool, wanted=wanted, num_classes=len(classes))
    return Split(side_of[groups], audit_of[groups], moved)


def _check_classes(
    groups: Codes,
    labels: Codes,
    kept_test: npt.NDArray[np.bool_],
    classes: tuple[str, ...],
    *,
    keeps_test: bool,
) -> None:
    for code, name in enumerate(classes):
        here = labels == code
        pool = here & ~kept_test
        patients = len(np.unique(groups[pool]))
        needed = 1 if keeps_test and (here & kept_test).any() else 2
        if int(here.sum()) < 2 or patients < needed:
            raise DataError(
                f"has {int(here.sum())} usable image(s), {patients} patient(s) to split; "
                f"at least 2 images of {needed} patient(s) are needed",
                field=f"class {name}",
                remedy="Add scans of this class, or leave it out through the manifest's label values.",
            )


def _classes_of_groups(groups: Codes, labels: Codes, num_groups: int) -> list[tuple[int, ...]]:
    pairs = np.unique(np.stack([groups, labels], axis=1), axis=0)
    found: list[list[int]] = [[] for _ in range(num_groups)]
    for group, label in pairs.tolist():
        found[group].append(label)
    return [tuple(labels_here) for labels_here in found]


def _fill(
    side_of: Codes,
    audit_of: Codes,
    draws: list[str],
    members: list[tuple[int, ...]],
    *,
    in_pool: npt.NDArray[np.bool_],
    wanted: list[int],
    num_classes: int,
) -> int:
    """Move groups until every wanted split holds every class that has enough groups; return the number.

    A group leaves the split that holds most groups of the class, and never one where it is the last of
    any of its classes, unless that split comes later in `wanted` than the one that lacks the class.
    """
    stock = {side: Counter[int]() for side in range(4)}
    by_class: list[list[int]] = [[] for _ in range(num_classes)]
    for group in sorted(np.flatnonzero(in_pool).tolist(), key=lambda g: draws[g]):
        for label in members[group]:
            stock[int(side_of[group])][label] += 1
            by_class[label].append(group)
    moved = 0
    for rank, lacking in enumerate(wanted):
        later = wanted[rank + 1 :]
        for label in range(num_classes):
            if stock[lacking][label]:
                continue
            donors = [
                group
                for group in by_class[label]
                if side_of[group] != lacking
                and all(
                    stock[int(side_of[group])][c] > 1 or int(side_of[group]) in later for c in members[group]
                )
            ]
            if not donors:
                continue
            chosen = max(donors, key=lambda g: stock[int(side_of[g])][label])
            stock[int(side_of[chosen])].subtract(members[chosen])
            stock[lacking].update(members[chosen])
            side_of[chosen], audit_of[chosen] = lacking, AUDIT_NONE
            moved += 1
    return moved
