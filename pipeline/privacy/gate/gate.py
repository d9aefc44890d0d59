"""The gate on arrays: search, reject and test; no files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from models.privacy.copy_embedding import CopyEmbedding
from pipeline.arrays import Bools, Floats, Ints
from pipeline.artifacts.privacy_report import Needed
from pipeline.privacy.gate.filter import Calibration, calibrate
from pipeline.privacy.gate.needed import needed
from pipeline.privacy.gate.planted_copies import KINDS, PLAIN_KINDS, POWER_KINDS, plant
from pipeline.privacy.gate.set_tests import (
    DEPTHS,
    POOLED,
    Plan,
    SideTest,
    detection_power,
    holm,
    run_tests,
)
from pipeline.privacy.partial_results import Halfway
from pipeline.privacy.search.hashes import duplicates, hash_matches
from pipeline.privacy.search.neighbours import Neighbours, join
from pipeline.privacy.search.references import References
from pipeline.privacy.search.views import VIEWS, Found, Views
from pipeline.privacy.settings import AuditSettings
from pipeline.wording.power import clopper_pearson

EXACT, PERCEPTUAL, DUPLICATE = "exact_hash", "perceptual_hash", "duplicate"

TUNING_SHARE = 0.8
"""Share of the false-reject budget used on the tuning half, so that the fresh half stays within it."""
HASH_DISTANCE = 8
"""Largest number of bits, of 240, in which the perceptual hashes of two matching images differ."""
DUPLICATE_SIMILARITY = 0.995
"""Smallest correlation at which two candidates count as duplicates."""


@dataclass(frozen=True)
class Measured:
    """Measurements of n candidates.

    Attributes:
        found: search results of the candidates.
        reasons: n reasons for rejection, empty if a candidate passes.
        calibration: the rules with their common threshold.
        fresh_rejected: number of holdout images of fresh patients that all rules together reject.
        fresh_total: number of holdout images of fresh patients.
        fresh_by_rule: (view, rule) -> number of fresh holdout images that the rule rejects.
        tests: tests of the whole set and of its classes.
        adjusted: their Holm-adjusted p-values.
        detected: (test, view, scope) -> (draws,) whether the simulation detected the planted share.
        needed: numbers of candidates or real scans that would be enough to detect that share.
        planted: kind -> (rejected, planted), with the hash rules off.
        plan: depths and null distribution of the tests.
    """

    found: Found
    reasons: list[str]
    calibration: Calibration
    fresh_rejected: int
    fresh_total: int
    fresh_by_rule: dict[tuple[str, str], int]
    tests: list[SideTest]
    adjusted: list[float]
    detected: dict[tuple[str, str, str], Floats]
    needed: Needed
    planted: dict[str, tuple[int, int]]
    plan: Plan

    def power(self, scope: str) -> float:
        """Return the probability that any test of `scope`, or any pooled test, detects the planted copies."""
        own = [hits for key, hits in self.detected.items() if key[2] in (scope, POOLED)]
        return float(np.max(own, axis=0).mean()) if own else 0.0

    def plain_recall(self) -> float:
        """Return the recall on all plain planted copies."""
        hits, total = np.sum([self.planted[kind] for kind in PLAIN_KINDS], axis=0)
        return float(hits / total)


@dataclass(frozen=True)
class Tuned:
    """The filter, tuned on one cohort.

    Attributes:
        pseudo: search results of every holdout image, its own patient excluded.
        control: view -> neighbours of the holdout images and some train images: how far real images stand
            out.
        calibration: the rules with their common threshold, tuned on tuning patients.
        fresh_by_rule: (n, number of rules) whether a rule rejects a holdout image of fresh patients.
        fresh_rejected: (n,) whether any of these rules or a hash rule rejects it.
    """

    pseudo: Found
    control: dict[str, Neighbours]
    calibration: Calibration
    fresh_by_rule: Bools
    fresh_rejected: Bools


def tune(views: Views, halfway: Halfway | None = None) -> Tuned:
    """Tune the filter on the tuning half of the holdout, and evaluate it on the fresh half."""
    halfway = halfway or Halfway()
    references, settings = views.references, views.settings
    held = np.flatnonzero(~references.in_train)
    images = references.images[torch.from_numpy(held)]
    pseudo = halfway.search("holdout", views, images, references.patients[held])
    control = pseudo.views
    more = _spread(np.flatnonzero(references.in_train), settings.control_scans)
    if len(more):
        trained = references.images[torch.from_numpy(more)]
        known = halfway.search("train", views, trained, references.patients[more])
        control = {view: join([own, known.views[view]]) for view, own in pseudo.views.items()}
    hashed = _hashed(images, references, settings)
    tuning = references.tuning[held]
    share = settings.false_reject_budget * TUNING_SHARE
    calibration = calibrate(pseudo.take(tuning), share, hashed[tuning])
    by_rule = calibration.scores(pseudo.take(~tuning)) < calibration.score
    return Tuned(pseudo, control, calibration, by_rule, by_rule.any(axis=1) | hashed[~tuning])


def _spread(rows: Ints, count: int) -> Ints:
    """Return at most `count` of the rows, evenly spaced."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)
    chosen: Ints = rows[np.unique(places)]
    return chosen


def measure(
    *,
    images: torch.Tensor,
    labels: Ints,
    classes: dict[str, int],
    digests: list[bytes],
    references: References,
    train_digests: set[bytes],
    network: CopyEmbedding,
    settings: AuditSettings,
    rng: np.random.Generator,
    halfway: Halfway | None = None,
) -> Measured:
    """Search and test candidates.

    Args:
        images: (n, 1, h, w) candidates in [-1, 1] at the search size.
        labels: (n,) class codes of the candidates.
        classes: name -> code of the classes present.
        digests: n digests of the candidates' stored pixels.
        references: real images of train and holdout.
        train_digests: digests of the train images' stored pixels.
        network: the cohort's copy embedding.
        settings: settings of the audit.
        rng: random generator of planted copies and simulated audits.
        halfway: saves the search results; None saves nothing.
    """
    halfway = halfway or Halfway()
    views = Views(references, network, settings)
    found = halfway.search("candidates", views, images)
    tuned = tune(views, halfway)
    calibration = tuned.calibration
    reasons = _reasons(
        images=images,
        digests=digests,
        train_digests=train_digests,
        found=found,
        calibration=calibration,
        views=views,
    )

    planted, kinds, sources = plant(references, settings.planted_per_kind, rng)
    planted_found = halfway.search("planted", views, planted)
    planted_hit, _ = calibration.rejects(planted_found)
    names = np.array(kinds)
    plan = Plan(DEPTHS, settings.null_draws, references.holdout_share)
    cut = {view: isolation_cut(calibration, view) for view in VIEWS}
    tests = run_tests(found.views, labels, classes, plan, control=tuned.control, cut=cut)
    for_power = np.isin(names, POWER_KINDS)
    copies = planted_found.take(for_power).views
    return Measured(
        found=found,
        reasons=reasons,
        calibration=calibration,
        fresh_rejected=int(tuned.fresh_rejected.sum()),
        fresh_total=len(tuned.fresh_rejected),
        fresh_by_rule={
            (rule.view, rule.name): int(tuned.fresh_by_rule[:, i].sum())
            for i, rule in enumerate(calibration.rules)
        },
        tests=tests,
        adjusted=holm([test.p_value for test in tests]),
        detected=detection_power(
            found.views,
            labels,
            classes,
            plan,
            control=tuned.control,
            planted=copies,
            planted_labels=references.labels[sources[for_power]],
            share=settings.planted_share,
            draws=settings.power_draws,
            significance=settings.significance,
            rng=rng,
        ),
        needed=needed(
            copies,
            tuned.control,
            candidates=len(images),
            holdout_share=plan.holdout_share,
            share=settings.planted_share,
            num_tests=len(tests),
            significance=settings.significance,
            chance=settings.min_power,
        ),
        planted={kind: (int(planted_hit[names == kind].sum()), int((names == kind).sum())) for kind in KINDS},
        plan=plan,
    )


def excess_copies(
    found: Neighbours, cut: float, holdout_share: float
) -> tuple[float, tuple[float, float], int]:
    """Estimate how many candidates past `cut` are copies; those nearest to a holdout patient are the decoys.

    Returns:
        Excess as a share of all candidates, its 95 % interval (Clopper-Pearson on the sides, given the number
        past the cut), and the number of candidates past the cut.
    """
    past = found.gap < cut
    total, held = int(past.sum()), int((past & ~found.side).sum())
    if not total:
        return 0.0, (0.0, 0.0), 0
    count = len(found.gap)

    def excess(share: float) -> float:
        # Without copies, share / holdout_share of the candidates past the cut would be there.
        return max(0.0, total * (1.0 - share / holdout_share)) / count

    low, high = clopper_pearson(held, total)
    return excess(held / total), (excess(high), excess(low)), total


def patients_hit(found: Neighbours, cut: float) -> tuple[int, int]:
    """Return how many patients of train, and of the holdout, are nearest to a candidate past `cut`."""
    past = found.gap < cut
    train, holdout = (np.unique(found.patient[past & side]) for side in (found.side, ~found.side))
    return len(train), len(holdout)


def isolation_cut(calibration: Calibration, view: str) -> float:
    """Return the log gap below which an image stands out in a view at the gate's threshold."""
    known = (*calibration.rules, *calibration.parts)
    rule = next(rule for rule in known if (rule.view, rule.name) == (view, "isolation"))
    return rule.threshold(calibration.score)


def _hashed(images: torch.Tensor, references: References, settings: AuditSettings) -> Bools:
    if not settings.hash_rules:
        return np.zeros(len(images), dtype=bool)
    train = references.images[torch.from_numpy(references.in_train)]
    return hash_matches(images, train, HASH_DISTANCE)


def _reasons(
    *,
    images: torch.Tensor,
    digests: list[bytes],
    train_digests: set[bytes],
    found: Found,
    calibration: Calibration,
    views: Views,
) -> list[str]:
    """Return each candidate's reason; certain reasons take precedence, and duplicates come last."""
    references, settings = views.references, views.settings
    rejected, strongest = calibration.rejects(found)
    hashed = _hashed(images, references, settings)
    exact = np.array([digest in train_digests for digest in digests]) & settings.hash_rules
    repeated = duplicates(images, DUPLICATE_SIMILARITY, settings.flat_field_sigma)
    reasons = []
    for i in range(len(images)):
        rule = calibration.rules[strongest[i]]
        ordered = (
            (exact[i], EXACT),
            (hashed[i], PERCEPTUAL),
            (rejected[i], f"{rule.view}_{rule.name}"),
            (repeated[i], DUPLICATE),
        )
        reasons.append(next((name for applies, name in ordered if applies), ""))
    return reasons
