"""Intervals of a study hold what they say, with known truth: patients, sites and seeds vary at once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from pipeline.evaluate.study.statistics import Effect, Resampled, measure_effect, resample, synthetic_arms

SYNTHETIC = "real_synthetic-1"
KINDS = {"real": "real", "real_augmented": "real_augmented", SYNTHETIC: "real_synthetic"}


def effect(measured: dict[str, Resampled], **changes: object) -> Effect:
    values = {"comparisons": 1, "num_scans": 200, "num_patients": 200} | changes
    return measure_effect(SYNTHETIC, measured, KINDS, **values)  # type: ignore[arg-type]


def drawn(
    rng: np.random.Generator,
    means: dict[str, float],
    *,
    sites: int = 5,
    seeds: int = 3,
    patient: float = 0.01,
    site: float = 0.02,
    seed: float = 0.01,
) -> dict[str, Resampled]:
    """AUCs of arms whose true means are known, with noise of each source and a bootstrap of the patients."""
    found = {}
    for key, mean in means.items():
        plain = mean + patient * rng.normal() + site * rng.normal(size=(sites, 1))
        plain = plain + seed * rng.normal(size=(sites, seeds))
        found[key] = Resampled(plain, plain + patient * rng.normal(size=(150, 1, 1)))
    return found


@pytest.mark.parametrize("sites", [2, 5])
@pytest.mark.parametrize("noise", [{}, {"site": 0.0}, {"patient": 0.03}, {"seed": 0.05}])
def test_intervals_cover_the_truth_in_95_of_100_studies(sites: int, noise: dict[str, float]) -> None:
    rng = np.random.default_rng(sites + 10 * len(noise))
    covered = 0
    for _ in range(500):
        means = {"real": 0.90, "real_augmented": 0.5, SYNTHETIC: 0.93}
        found = {key: own for key, own in drawn(rng, means, sites=sites, **noise).items() if "aug" not in key}
        change = effect(found).difference
        assert change.low is not None and change.high is not None
        covered += change.low <= 0.03 <= change.high
    # Of 500 with a true coverage of .95, 463 to 486 are within three standard errors; more is not wrong.
    assert covered >= 460


def test_without_an_effect_hardly_any_study_says_that_it_helps() -> None:
    rng = np.random.default_rng(1)
    helps = sum((effect(drawn(rng, dict.fromkeys(KINDS, 0.9))).difference.low or 0.0) > 0 for _ in range(500))
    assert helps <= 25


def test_the_best_real_arm_is_the_rival_and_the_least_certain_one_may_set_the_lower_end() -> None:
    rng = np.random.default_rng(2)
    found = effect(drawn(rng, {"real": 0.8, "real_augmented": 0.9, SYNTHETIC: 0.95}))
    assert (found.chosen, found.rival) == (SYNTHETIC, "real_augmented")
    assert found.p_value < 0.05 and len(found.by_site) == 5
    other = effect(drawn(rng, {"real": 0.96, "real_augmented": 0.9, SYNTHETIC: 0.85}))
    assert other.rival == "real" and other.difference.high is not None and other.difference.high < 0


def test_more_rows_widen_the_intervals() -> None:
    found = drawn(np.random.default_rng(3), {"real": 0.8, "real_augmented": 0.9, SYNTHETIC: 0.95})
    one, eight = effect(found).difference, effect(found, comparisons=8).difference
    assert one.low is not None and eight.low is not None and eight.low < one.low


def test_each_source_is_told_apart() -> None:
    rng = np.random.default_rng(4)
    means = {"real": 0.8, "real_augmented": 0.5, SYNTHETIC: 0.9}
    by_sites = effect(drawn(rng, means, sites=40, site=0.05, patient=0.001, seed=0.001)).shares
    assert by_sites.sites > 5 * max(by_sites.patients, by_sites.seeds)
    by_seeds = effect(drawn(rng, means, sites=40, site=0.0, patient=0.001, seed=0.05)).shares
    assert by_seeds.seeds > max(by_seeds.patients, by_seeds.sites)
    by_patients = effect(drawn(rng, means, sites=40, site=0.0, patient=0.05, seed=0.001)).shares
    assert by_patients.patients > 5 * max(by_patients.sites, by_patients.seeds)


def test_a_synthetic_arm_needs_a_real_one_to_beat() -> None:
    assert synthetic_arms(KINDS) == [SYNTHETIC]
    assert synthetic_arms({"real": "real"}) == []
    assert synthetic_arms({SYNTHETIC: "real_synthetic"}) == []


@pytest.mark.slow
def test_whole_studies_of_simulated_classifiers_cover_the_truth() -> None:
    """Scores of binormal classifiers: the effect is known, and new test patients come every time."""
    rng = np.random.default_rng(6)
    labels, patients = np.arange(240) % 2, np.arange(240) // 2
    low_effect, covered, studies = 1.6, 0, 500
    for _ in range(studies):
        hard = rng.normal(size=240)
        cells = []
        for _site in range(4):
            cell = {}
            for key in ("real", SYNTHETIC):
                strength = low_effect + 0.2 * rng.normal()
                # Half of what makes a case hard is the case's own, for all classifiers.
                noise = np.sqrt(0.5) * (hard + rng.normal(size=(2, 240)))
                score = norm.cdf(strength * (labels - 0.5) + noise)
                cell[key] = np.stack([1 - score, score], axis=-1)
            cells.append(cell)
        measured = resample(cells, ["real", SYNTHETIC], labels, patients, count=200, seed=0)
        change = measure_effect(SYNTHETIC, measured, KINDS, comparisons=1, num_scans=240, num_patients=120)
        assert change.difference.low is not None and change.difference.high is not None
        covered += change.difference.low <= 0.0 <= change.difference.high
    assert 0.92 * studies <= covered <= 0.985 * studies
