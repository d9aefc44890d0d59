"""Linkability and attribute inference: copies give train away, other images give nobody away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.privacy.pca import Components, principal_components
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.pixels import to_model_range
from pipeline.artifacts.privacy_report import AttackRisk, read_privacy_report
from pipeline.privacy.gate.attack_risk import (
    ATTRIBUTE,
    LINKABILITY,
    Released,
    Targets,
    attack_risks,
    drawn_targets,
    risk,
)
from pipeline.privacy.search.references import References, load_references
from pipeline.privacy.search.views import COMPONENT_NOISE
from tests.pipeline.privacy.sets import QUICK, fresh


@pytest.fixture(scope="module")
def known(gate_cohort: Path) -> tuple[References, Components]:
    cohort = Cohort(gate_cohort)
    references = load_references(cohort, QUICK, np.random.default_rng(0))
    return references, principal_components(references.images, COMPONENT_NOISE)


def found(known: tuple[References, Components], released: Released) -> dict[str, AttackRisk]:
    references, components = known
    targets = drawn_targets(references, np.random.default_rng(1))
    risks = attack_risks(targets, released, components, QUICK, np.random.default_rng(2))
    return {risk.name: risk for risk in risks}


def test_a_release_of_train_scans_is_a_risk(known: tuple[References, Components]) -> None:
    references, _ = known
    train = torch.from_numpy(references.in_train)
    released = Released(references.images[train], references.labels[references.in_train])
    risks = found(known, released)
    assert risks[LINKABILITY].success == 1
    assert risks[LINKABILITY].interval[0] > 0.3
    assert risks[ATTRIBUTE].success == 1
    assert risks[ATTRIBUTE].interval[0] >= 0


def test_a_release_of_others_is_none(known: tuple[References, Components]) -> None:
    pixels, labels = fresh(150, seed=5)
    risks = found(known, Released(torch.from_numpy(to_model_range(pixels)), labels))
    for own in risks.values():
        assert own.interval[0] <= 0 <= own.interval[1]
        assert own.attacked == own.controls > 50


def test_with_one_class_there_is_no_class_to_guess(known: tuple[References, Components]) -> None:
    pixels, labels = fresh(60, seed=6)
    one = labels == 0
    risks = found(known, Released(torch.from_numpy(to_model_range(pixels[one])), labels[one]))
    assert list(risks) == [LINKABILITY]


def test_a_harder_class_on_one_side_is_no_risk() -> None:
    """Class 1 is guessed half as often, and train has more of it: within each class both sides are equal."""
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1, 0, 1], [100, 300, 300, 100])
    inside = np.arange(800) < 400
    success = rng.random(800) < np.where(labels == 0, 0.9, 0.45)
    targets = Targets(torch.zeros(800, 1, 1, 1), labels, np.arange(800), inside)
    own = risk("any", success, targets, draws=300, rng=rng)
    assert success[inside].mean() < success[~inside].mean() - 0.15
    assert own.interval[0] <= 0 <= own.interval[1]
    better = risk("any", success | inside & (rng.random(800) < 0.5), targets, draws=300, rng=rng)
    assert better.risk == pytest.approx(0.5, abs=0.15)
    assert better.interval[0] > 0.1


def test_the_report_holds_both_risks(healthy: Path) -> None:
    report = read_privacy_report(healthy / "audit")
    assert {own.name for own in report.attack_risks} == {LINKABILITY, ATTRIBUTE}
