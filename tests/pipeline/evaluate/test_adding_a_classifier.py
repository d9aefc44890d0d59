"""A classifier of somebody's own is one argument: every arm is trained with it and measured by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.artifacts.evaluation_report import read_evaluation_report
from pipeline.evaluate import EvaluateSettings, run_evaluate
from pipeline.evaluate.arm_names import PLAIN_ARMS
from pipeline.evaluate.arms import Arm
from pipeline.evaluate.training import Fit

QUICK = EvaluateSettings(
    seeds=2, ratios=(1.0,), num_steps=5, batch_size=16, encoder_steps=20, num_resamples=100
)


@dataclass
class NearestMean:
    """Takes an image for the class whose mean spectrum along its rows lies nearest.

    Attributes:
        seen: kind of arm and number of images of each call.
    """

    seen: list[tuple[str, int]] = field(default_factory=list)

    def __call__(
        self,
        arm: Arm,
        parts: Sequence[tuple[np.ndarray, np.ndarray]],
        asked: Sequence[np.ndarray],
        *,
        num_classes: int,
        seed: int,
    ) -> Fit:
        [(images, labels)] = parts
        self.seen.append((arm.name, len(images)))
        known = _spectrum(images)
        means = np.stack([known[labels == label].mean(axis=0) for label in range(num_classes)])
        return Fit(tuple(_softmax(-_distances(_spectrum(part), means)) for part in asked))


def _spectrum(images: np.ndarray) -> np.ndarray:
    return np.log(np.abs(np.fft.rfft(images[:, 0], axis=2)).mean(axis=1) + 1e-3)


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.square(x[:, None] - y).sum(axis=2)


def _softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def test_every_arm_is_trained_with_it_and_measured(release: Path, cohort: Path, tmp_path: Path) -> None:
    classifier = NearestMean()
    run_evaluate(release, cohort, tmp_path / "e", QUICK, seed=7, fit_predict=classifier)
    report = read_evaluation_report(tmp_path / "e")
    assert len(classifier.seen) == QUICK.seeds * len(report.arms)
    trained_on = {arm.num_real + arm.num_synthetic for arm in report.arms}
    assert {count for _, count in classifier.seen} == trained_on
    assert "real_balanced" in {name for name, _ in classifier.seen} <= PLAIN_ARMS
    assert any("real_augmented, real_strong are not measured" in note for note in report.notes)
    # Stripes of a known period, for which the built-in classifier would need hundreds of steps.
    real = next(arm for arm in report.arms if arm.arm == "real_balanced")
    assert real.test["auc"].value > 0.95 and set(real.test) >= {"auc", "balanced_accuracy", "brier"}
    assert min(share.value for share in report.label_agreement.values()) > 0.7
    # It keeps no learning curve, and none is made up.
    assert report.curves == {}


def test_its_evaluation_is_another_one_than_the_built_in_classifiers(
    release: Path, cohort: Path, tmp_path: Path
) -> None:
    own = run_evaluate(release, cohort, tmp_path / "own", QUICK, seed=7, fit_predict=NearestMean())
    built_in = run_evaluate(release, cohort, tmp_path / "built-in", QUICK, seed=7)
    assert own.inputs_digest != built_in.inputs_digest
