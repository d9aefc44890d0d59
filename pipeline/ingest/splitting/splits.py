"""The patient-level split: drawn by hash, stratified by class and finding, fixed for known patients.

- All scans of a group (a patient, joined with patients that share an image) are on one side.
- A patient known from an earlier cohort keeps side and audit role.
- The place of any other patient follows from the hash of split seed, dataset and patient. It is the same for
  every user: key, file order and random state have no influence. Only the repair, which gives every class and
  finding its share of every split, departs from the hash. It moves few patients, and relatively fewer in a
  larger cohort. So most patients, but not all, keep their place when others arrive, and a new scan that joins
  patients into one group may move them. Only an earlier cohort fixes a place.
- Shares and tolerances count patients, never scans.
- The repair decides by class, finding and draw, never by the image, so holdout and train stay exchangeable
  within a class and finding.
- The audit members are chosen without regard to their coins, and none leaves afterwards, so in and out remain
  independent fair coins. The rest of train and holdout then compensates for the result of the coins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipeline.arrays import Bools, Codes
from pipeline.errors import DataError
from pipeline.ingest.settings import IngestSettings
from pipeline.ingest.splitting.stratify import MAX_STRATA, Limits, settle
from pipeline.records import AUDIT_ROLES, SPLITS

TRAIN, VAL, TEST, HOLDOUT = range(4)
AUDIT_NONE, AUDIT_IN, AUDIT_OUT = range(3)
UNKNOWN = -1

assert SPLITS == ("train", "val", "test", "holdout")
assert AUDIT_ROLES == ("", "in", "out")

DRAW_DIGITS = 12
"""Hex digits of a draw: the first eight are the patient's position in [0, 1), the ninth is the coin."""


@dataclass(frozen=True)
class Split:
    """The split of N scans.

    Attributes:
        side: (N,) position in `SPLITS`.
        audit: (N,) position in `AUDIT_ROLES`.
        moved: number of groups of patients whose side or role is not the drawn one.
    """

    side: Codes
    audit: Codes
    moved: int


@dataclass(frozen=True)
class _Places:
    """Side and audit role of each group, each (G,)."""

    side: Codes
    audit: Codes


def drawn_sides(draws: Codes, settings: IngestSettings, *, draw_test: bool) -> tuple[Codes, Codes]:
    """Return (sides, audit roles), each (G,), that follow from the draws alone.

    Args:
        draws: (G,) draws as integers of `DRAW_DIGITS` hex digits.
        settings: shares of the splits.
        draw_test: whether a test split is drawn, because no published one is kept.
    """
    edges = np.cumsum(
        [
            settings.test_share if draw_test else 0.0,
            settings.val_share,
            settings.holdout_share,
            settings.audit_share,
        ]
    )
    place = np.searchsorted(edges, (draws >> 16) / 2.0**32, side="right")
    member = place == 3
    heads, tails = member & ~_tails(draws), member & _tails(draws)
    side = np.array([TEST, VAL, HOLDOUT, TRAIN, TRAIN])[place]
    return np.where(tails, HOLDOUT, side), np.select([heads, tails], [AUDIT_IN, AUDIT_OUT], AUDIT_NONE)


def split_scans(
    groups: Codes,
    draws: Codes,
    labels: Codes,
    *,
    kept_test: Bools,
    classes: tuple[str, ...],
    settings: IngestSettings,
    keeps_test: bool,
    findings: Bools | None = None,
    known: tuple[Codes, Codes] | None = None,
) -> Split:
    """Split scans by groups of patients, stratified as far as possible.

    For every class and finding, the number of groups in each split is within max(1, `stratify_tolerance` *
    target) of its target, if enough groups can be moved. If a class has too few groups for all requested
    splits, the splits get one in the order train, test, holdout, val. If a class has very few groups, none of
    them becomes an audit member, because its place could not change.

    Args:
        groups: (N,) group of each scan: its patient, joined with patients that share an image.
        draws: (G,) draw of each group.
        labels: (N,) class of each scan.
        kept_test: (N,) True for scans of a published test part that is kept; their groups hold no others.
        classes: class names.
        settings: shares and tolerance.
        keeps_test: whether a published test part is kept; then no test split is drawn.
        findings: (N, K) findings of each scan besides its class.
        known: (G,) sides and (G,) audit roles that must stay, `UNKNOWN` for all other groups.

    Raises:
        DataError: a class has too few scans or patients for train and test, or there are too many classes and
            findings.
    """
    _check_classes(groups, labels, kept_test, classes, keeps_test=keeps_test)
    strata = group_strata(groups, len(draws), labels, len(classes), findings)
    none = np.full(len(draws), UNKNOWN, dtype=np.int64)
    known_side, known_audit = known if known is not None else (none, none)
    in_pool = np.ones(len(draws), dtype=bool)
    in_pool[groups[kept_test]] = False
    free = in_pool & (known_side < 0)
    drawn = _Places(*drawn_sides(draws, settings, draw_test=not keeps_test))
    start = _Places(
        np.where(free, drawn.side, np.where(in_pool, known_side, TEST)),
        np.where(free, drawn.audit, np.where(in_pool, np.maximum(known_audit, 0), AUDIT_NONE)),
    )
    plan = _Plan(strata, draws, len(classes), settings, draws_test=not keeps_test, free=free, in_pool=in_pool)
    placed = _settle_sides(_settle_audit(start, plan), plan)
    moved = free & ((placed.side != drawn.side) | (placed.audit != drawn.audit))
    return Split(placed.side[groups], placed.audit[groups], int(moved.sum()))


def group_strata(
    groups: Codes, num_groups: int, labels: Codes, num_classes: int, findings: Bools | None
) -> Bools:
    """Return (G, C + K): the classes and findings that the scans of each group have.

    Raises:
        DataError: there are more than `MAX_STRATA` classes and findings.
    """
    num_findings = 0 if findings is None else findings.shape[1]
    if num_classes + num_findings > MAX_STRATA:
        raise DataError(
            "too many classes and findings to split by",
            field="label",
            value=num_classes + num_findings,
            remedy=f"Map them to at most {MAX_STRATA} names with the manifest's label.values.",
        )
    strata = np.zeros((num_groups, num_classes + num_findings), dtype=bool)
    strata[groups, labels] = True
    for column in range(num_findings):
        assert findings is not None
        strata[groups[findings[:, column]], num_classes + column] = True
    return strata


def _tails(draws: Codes) -> Bools:
    return (draws >> 12) % 2 == 1


def _check_classes(
    groups: Codes,
    labels: Codes,
    kept_test: Bools,
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
                remedy="Add scans of this class, or leave it out with the manifest's label.values.",
            )


@dataclass(frozen=True)
class _Plan:
    """Constraints of the repair."""

    strata: Bools
    draws: Codes
    num_classes: int
    settings: IngestSettings
    draws_test: bool
    free: Bools
    in_pool: Bools

    @property
    def wanted(self) -> list[int]:
        """Splits that should lack no class, the most important first."""
        settings = self.settings
        wanted = [TRAIN, TEST] if self.draws_test else [TRAIN]
        wanted += [HOLDOUT] if settings.holdout_share + settings.audit_share > 0 else []
        return wanted + ([VAL] if settings.val_share > 0 else [])

    def shares(self) -> list[float]:
        """Return the share of the pool of each side."""
        settings = self.settings
        half, test = settings.audit_share / 2, settings.test_share if self.draws_test else 0.0
        left = 1.0 - test - settings.val_share - settings.holdout_share - settings.audit_share
        held = settings.holdout_share + half
        by_side = {TRAIN: left + half, VAL: settings.val_share, TEST: test, HOLDOUT: held}
        return [by_side[side] for side in range(len(SPLITS))]

    def totals(self, side: Codes) -> Codes:
        """Return (K,) the number of groups of each stratum in the pool that are on a wanted side."""
        counted = self.in_pool & np.isin(side, self.wanted)
        return self.strata[counted].sum(axis=0, dtype=np.int64)


def _settle_audit(places: _Places, plan: _Plan) -> _Places:
    """Choose the audit members within strata, in exchange with the rest of train, without their coins."""
    share = plan.settings.audit_share
    if share == 0:
        return places
    member = places.audit != AUDIT_NONE
    place = np.where(member, 1, np.where(places.side == TRAIN, 0, UNKNOWN))
    total = plan.totals(places.side)
    limits = Limits.around(np.stack([(1 - share) * total, share * total]), plan.settings.stratify_tolerance)
    low, high, ceiling = limits.low.copy(), limits.high.copy(), limits.ceiling.copy()
    low[0], high[0] = 0, ceiling[0]
    # The coins may send all members to one side, so enough other groups must remain for every split.
    ceiling[1, : plan.num_classes] = np.maximum(total[: plan.num_classes] - len(plan.wanted), 0)
    settled = settle(
        place,
        plan.strata,
        plan.draws,
        replace(limits, low=low, high=high, ceiling=ceiling),
        movable=plan.free,
        open_places=np.ones(2, dtype=bool),
    )
    joined, left = plan.free & (settled == 1), plan.free & (settled == 0)
    tails = _tails(plan.draws)
    side = np.where(joined, np.where(tails, HOLDOUT, TRAIN), np.where(left, TRAIN, places.side))
    audit = np.where(joined, np.where(tails, AUDIT_OUT, AUDIT_IN), np.where(left, AUDIT_NONE, places.audit))
    return _Places(side, audit)


def _settle_sides(places: _Places, plan: _Plan) -> _Places:
    """Move groups that are no audit members until every stratum has its share of every side."""
    side = np.where(plan.in_pool, places.side, UNKNOWN)
    wanted = np.zeros(len(SPLITS), dtype=bool)
    wanted[plan.wanted] = True
    total = plan.totals(places.side)
    limits = Limits.around(np.outer(plan.shares(), total), plan.settings.stratify_tolerance)
    floor, high = limits.floor.copy(), limits.high.copy()
    high[~wanted] = limits.ceiling[~wanted]
    for rank, code in enumerate(plan.wanted):
        floor[code, : plan.num_classes] = total[: plan.num_classes] > rank
    settled = settle(
        side,
        plan.strata,
        plan.draws,
        replace(limits, floor=floor, high=high),
        movable=plan.free & (places.audit == AUDIT_NONE),
        open_places=wanted,
    )
    return _Places(np.where(plan.in_pool, settled, places.side), places.audit)
