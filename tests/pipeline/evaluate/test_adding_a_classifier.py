"""A classifier of somebody's own is one argument: every arm is trained with it and measured by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from models.evaluation.augmentation import Augmentation
from pipeline.artifacts.evaluation_report import read_evaluation_report
from pipeline.errors import DataError, UsageError
from pipeline.evaluate import EvaluateSettings, run_evaluate
from pipeline.evaluate.arm_names import PLAIN_ARMS
from pipeline.evaluate.arms import Arm
from pipeline.evaluate.classifiers import classifier_of
from pipeline.evaluate.plan import plan_evaluate
from pipeline.evaluate.training import Fit, Job, run_jobs
from pipeline.evaluate.truth import Question

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


WRONG = {
    "few scores": (lambda scores: [part[1:] for part in scores], "gave scores of shape"),
    "a set too few": (lambda scores: scores[1:], "gave scores of shape"),
    "one column": (lambda scores: [part[:, 0] for part in scores], "gave scores of shape"),
    "NaN": (lambda scores: [part * np.nan for part in scores], "not finite"),
    "too high": (lambda scores: [part * 3 for part in scores], "below 0 or above 1"),
    "too low": (lambda scores: [part - [0, 1] for part in scores], "below 0 or above 1"),
    "no probabilities": (lambda scores: [part * 1.8 for part in scores], "do not add up to 1"),
    "text": (lambda scores: [part.astype(str) + "?" for part in scores], "no Fit with an array"),
    "no Fit": (None, "no Fit with an array"),
    "crashes": (None, r"failed \(KeyError\)"),
}


def broken(problem: str):
    def fit_predict(arm: Arm, parts: list, asked: list, *, num_classes: int, seed: int) -> Fit | None:
        if problem == "crashes":
            raise KeyError("patient 17")
        if problem == "no Fit":
            return None
        change = WRONG[problem][0]
        return Fit(tuple(change([np.full((len(part), num_classes), 0.5) for part in asked])))

    return fit_predict


@pytest.mark.parametrize("problem", WRONG)
def test_one_that_fails_is_named_and_what_is_trained_is_kept(
    release: Path, cohort: Path, tmp_path: Path, problem: str
) -> None:
    good, calls = NearestMean(), []

    def second_arm_breaks(arm: Arm, *arguments: object, **options: object) -> Fit:
        calls.append(arm.key)
        return (good if arm.name == "real" else broken(problem))(arm, *arguments, **options)

    with pytest.raises(DataError, match=WRONG[problem][1]) as raised:
        run_evaluate(release, cohort, tmp_path / "e", QUICK, seed=7, fit_predict=second_arm_breaks)
    assert "patient 17" not in str(raised.value) and "in arm real_balanced" in str(raised.value)
    assert any((tmp_path / "e" / "classifiers").glob("real-seed-*.safetensors"))


def test_a_function_of_a_module_is_found_by_its_name_and_a_changed_one_counts(
    release: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
import numpy as np
from pipeline.evaluate.classifiers import classifier_of
from pipeline.evaluate.training import Fit, Job, run_jobs
from models.evaluation.augmentation import Augmentation

def guess(arm, parts, asked, *, num_classes, seed):
    return Fit(tuple(np.full((len(part), num_classes), 1 / num_classes, np.float32) for part in asked))
"""
    (tmp_path / "phosphor_own_classifier.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    few = {"seeds": 1, "arms": ("real", "real_synthetic")}
    named = QUICK.model_copy(update={"classifier": "phosphor_own_classifier:guess", **few})
    first = run_evaluate(release, cohort, tmp_path / "e", named, seed=7)
    report = read_evaluation_report(tmp_path / "e")
    assert {round(arm.val["auc"].value, 6) for arm in report.arms} == {0.5}
    (tmp_path / "phosphor_own_classifier.py").write_text(source + "# another one\n")
    assert plan_evaluate(release, cohort, named, seed=7).wanted.digest != first.inputs_digest
    for wrong, problem in (
        ("phosphor_no_such:guess", "imported"),
        ("phosphor_own_classifier:np", "function"),
    ):
        settings = QUICK.model_copy(update={"classifier": wrong})
        with pytest.raises(UsageError, match=problem):
            run_evaluate(release, cohort, tmp_path / "w", settings, seed=7)


def test_the_built_in_densenet_is_trained_by_its_name(tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"classifier": "densenet121", "num_steps": 2, "batch_size": 4})
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(-1, 1, (6, 1, 32, 32)).astype(np.float32), np.array([0, 1] * 3)
    job = Job(Arm("real", None, (3, 3), (0, 0), Augmentation("none"), balanced=False), 1, ("val",))
    read = run_jobs(
        [job],
        tmp_path,
        lambda _arm, _seed: [(images, labels)],
        {"val": images[:3]},
        fit_predict=classifier_of(settings, Question(("a", "b")), tmp_path),
        num_classes=2,
    )[job]["val"]
    assert read.shape == (3, 2) and read.sum(axis=1) == pytest.approx(1, abs=1e-5)
