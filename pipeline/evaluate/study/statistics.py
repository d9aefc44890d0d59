"""Statistics of a study: paired differences over patients, sites and classifier seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Floats, Ints
from pipeline.artifacts.evaluation_report import Estimate
from pipeline.evaluate.arm_names import REAL_ARMS, SYNTHETIC_ARMS
from pipeline.evaluate.intervals import draw_cases, on_draws, smallest
from pipeline.evaluate.metrics import auc
from pipeline.evaluate.truth import Targets

Scores = Mapping[str, Floats]
"""Arm key -> scores (seeds, n, C or K) of one split, of one site."""


@dataclass(frozen=True)
class Resampled:
    """Test AUC of one arm over sites and seeds, and over resampled patients.

    Attributes:
        plain: (D, S) AUC of each site and seed on all test scans.
        draws: (B, D, S) AUC of each site and seed on the patients of each bootstrap draw.
    """

    plain: Floats
    draws: Floats


@dataclass(frozen=True)
class Shares:
    """Standard error of a difference by its source: test patients, sites, classifier seeds."""

    patients: float
    sites: float
    seeds: float


@dataclass(frozen=True)
class Effect:
    """A synthetic arm against the best real-only arm, at one regime and size.

    Attributes:
        chosen: key of the synthetic arm.
        rival: key of the real-only arm that is best on test, over all sites.
        difference: change in test AUC against the best real-only arm, with its 95 % interval.
        by_site: (D,) difference to `rival` of each site, mean over seeds.
        shares: sources of the uncertainty of the difference to `rival`.
        p_value: one-sided, that the synthetic arm is no better than the best real-only arm.
    """

    chosen: str
    rival: str
    difference: Estimate
    by_site: tuple[float, ...]
    shares: Shares
    p_value: float


def mean_auc(cells: Sequence[Scores], keys: Sequence[str], labels: Targets) -> dict[str, float]:
    """Return arm key -> mean AUC over sites and seeds."""
    return {key: float(_plain([cell[key] for cell in cells], labels).mean()) for key in keys}


def resample(
    cells: Sequence[Scores], keys: Sequence[str], labels: Targets, patients: Ints, *, count: int, seed: int
) -> dict[str, Resampled]:
    """Measure the arms on all test scans and on resampled patients.

    Args:
        cells: scores of the sites.
        keys: arms that all of them have.
        labels: what is true of the test scans.
        patients: (n,) patient of the test scans.
        count: number of bootstrap draws.
        seed: seed of the draws.
    """
    drawn = draw_cases(patients, count, np.random.default_rng([seed, 5]))
    found = {}
    for key in keys:
        sites = [cell[key] for cell in cells]
        draws = np.stack(
            [np.stack([on_draws(auc, read, labels, drawn) for read in site], axis=-1) for site in sites],
            axis=1,
        )
        found[key] = Resampled(_plain(sites, labels), draws)
    return found


def synthetic_arms(kinds: Mapping[str, str]) -> list[str]:
    """Return the keys of the arms with synthetic images; none if there is no real-only arm to beat."""
    rivals = any(kind in REAL_ARMS for kind in kinds.values())
    return [key for key, kind in kinds.items() if kind in SYNTHETIC_ARMS and rivals]


def measure_effect(
    chosen: str,
    measured: Mapping[str, Resampled],
    kinds: Mapping[str, str],
    *,
    comparisons: int,
    num_scans: int,
    num_patients: int,
) -> Effect:
    """Return the effect of a synthetic arm.

    Its interval is that of the smallest difference to a real-only arm (`intervals.smallest`).

    Args:
        chosen: key of the synthetic arm.
        measured: arm key -> resampled AUC.
        kinds: arm key -> kind of arm; at least one is real-only.
        comparisons: number of effects whose intervals hold together (Bonferroni).
        num_scans: number of test scans.
        num_patients: number of test patients.
    """
    from scipy.stats import t

    rivals = [key for key in measured if kinds[key] in REAL_ARMS]
    tail = 0.025 / comparisons
    differences: dict[str, Estimate] = {}
    p_values, shares = [], {}
    for key in rivals:
        gap = measured[chosen].plain - measured[key].plain
        value = float(gap.mean())
        shares[key] = _shares(gap, measured[chosen].draws - measured[key].draws)
        error, freedom = _total(shares[key], gap.shape, num_patients)
        differences[key] = Estimate(
            value=value,
            low=value - error * float(t.isf(tail, freedom)),
            high=value + error * float(t.isf(tail / len(rivals), freedom)),
            n=num_scans,
        )
        p_values.append(float(t.sf(value / error, freedom)) if error else float(value <= 0))
    rival = min(differences, key=lambda key: differences[key].value)
    return Effect(
        chosen=chosen,
        rival=rival,
        difference=smallest(list(differences.values())),
        by_site=tuple((measured[chosen].plain - measured[rival].plain).mean(axis=1).tolist()),
        shares=shares[rival],
        # The chosen arm must beat all of them: the largest of the single p-values holds for the hypothesis.
        p_value=max(p_values),
    )


def _plain(sites: Sequence[Floats], labels: Targets) -> Floats:
    """Return the AUC (D, S) of each site and seed."""
    once = np.ones((1, len(labels)))
    return np.array([[auc(read, labels, once)[0] for read in site] for site in sites])


def _shares(gap: Floats, draws: Floats) -> Shares:
    """Return the standard errors by source of a mean difference over sites (D) and seeds (S)."""
    num_sites, num_seeds = gap.shape
    patients = float(np.nanstd(draws.mean(axis=(1, 2)), ddof=1))
    within = float(gap.var(axis=1, ddof=1).mean()) if num_seeds > 1 else 0.0
    between = float(gap.mean(axis=1).var(ddof=1)) if num_sites > 1 else 0.0
    between = max(between - within / num_seeds, 0.0)
    return Shares(patients, (between / num_sites) ** 0.5, (within / (num_sites * num_seeds)) ** 0.5)


def _total(shares: Shares, shape: tuple[int, ...], num_patients: int) -> tuple[float, float]:
    """Return the standard error of a difference, and its degrees of freedom (Satterthwaite 1946).

    Site and seed vary together from site to site, with one degree of freedom less than there are sites. With
    a single site, the seeds alone are known.
    """
    num_sites, num_seeds = shape
    varied = shares.sites**2 + shares.seeds**2
    total = shares.patients**2 + varied
    repeated = (num_sites if num_sites > 1 else num_seeds) - 1
    if not total:
        return 0.0, 1.0
    below = shares.patients**4 / max(num_patients - 1, 1) + (varied**2 / repeated if repeated else 0.0)
    return total**0.5, (total**2 / below if below else 1.0)
