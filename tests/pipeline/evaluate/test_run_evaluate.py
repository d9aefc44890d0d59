"""The stage from release and cohort to `evaluation.json`: complete, repeatable, resumable, honest."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.evaluation_report import EvaluationReport, read_evaluation_report
from pipeline.cost.pacing import TIMED_CALLS, Pace
from pipeline.errors import DataError, OutputExistsError
from pipeline.evaluate import EvaluateSettings, run_evaluate
from pipeline.evaluate.arms import Arm
from pipeline.evaluate.fidelity.encoder import cohort_encoder
from pipeline.evaluate.study.cell import released_pool
from pipeline.evaluate.training import Fit
from pipeline.records import EvaluationRef
from pipeline.report import folder
from pipeline.report.evaluation_tables import reads_words
from pipeline.stage import verify_reference

ROOT = Path(__file__).parents[3]
QUICK = EvaluateSettings(
    seeds=2, ratios=(0.5, 1.0), num_steps=20, batch_size=16, encoder_steps=20, num_resamples=200
)


def logistic(
    arm: Arm,
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
    asked: Sequence[np.ndarray],
    *,
    num_classes: int,
    seed: int,
) -> Fit:
    """Somebody's own classifier: logistic regression on the spectrum of the image's rows."""
    from sklearn.linear_model import LogisticRegression

    def spectrum(x: np.ndarray) -> np.ndarray:
        return np.log(np.abs(np.fft.rfft(x[:, 0], axis=2)).mean(axis=1) + 1e-3)

    [(images, labels)] = parts
    model = LogisticRegression(class_weight="balanced" if arm.balanced else None, random_state=seed)
    model.fit(spectrum(images), labels)
    assert len(model.classes_) == num_classes
    return Fit(tuple(model.predict_proba(spectrum(x)).astype(np.float32) for x in asked))


@pytest.fixture(scope="module")
def finished(cohort: Path, release: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluationRef:
    out = tmp_path_factory.mktemp("finished") / "evaluation"
    return run_evaluate(release, cohort, out, QUICK, seed=7)


@pytest.fixture(scope="module")
def report(finished: EvaluationRef) -> EvaluationReport:
    return read_evaluation_report(finished.path)


def with_logistic(
    release: Path, cohort: Path, out: Path, *, force: bool = False, **changes: object
) -> EvaluationReport:
    settings = QUICK.model_copy(update=changes)
    run_evaluate(release, cohort, out, settings, seed=7, fit_predict=logistic, force=force)
    return read_evaluation_report(out)


def test_every_part_is_measured(report: EvaluationReport, cohort: Path):
    assert [part.scope for part in report.fidelity] == ["all", "plain", "striped"]
    assert [arm.arm for arm in report.arms] == [
        "real",
        "real_balanced",
        "real_augmented",
        "real_strong",
        "real_strong",
        "real_duplicated",
        "real_synthetic",
        "real_duplicated",
        "real_synthetic",
        "synthetic",
    ]
    assert all(next(iter(arm.val)) == "auc" and len(arm.val) == 5 for arm in report.arms)
    assert report.utility.difference is not None and report.utility.likely is not None
    assert report.utility.verdict != "not measured"
    assert set(report.label_agreement) == set(report.label_agreement_real) == {"plain", "striped"}
    assert report.test_reads == 1
    assert report.extractor_digest == cohort_encoder(Cohort(cohort), QUICK).digest


def test_all_arms_take_equal_steps(report: EvaluationReport):
    assert len(report.curves) == len(report.arms)
    assert {curve["step"][-1] for curve in report.curves.values()} == {float(QUICK.num_steps)}


def test_an_arm_at_another_budget_takes_its_multiple_of_the_steps(
    cohort: Path, release: Path, tmp_path: Path
):
    names = ("real", "real_synthetic")
    settings = QUICK.model_copy(
        update={"arms": names, "ratios": (1.0,), "budgets": (0.5, 1.0, 2.0), "seeds": 1}
    )
    found = read_evaluation_report(run_evaluate(release, cohort, tmp_path / "e", settings, seed=7).path)
    ends = {key: curve["step"][-1] for key, curve in found.curves.items()}
    assert ends == {
        f"{name}{suffix}": 20.0 * budget
        for name in ("real", "real_synthetic-1")
        for suffix, budget in (("", 1.0), ("-x0.5", 0.5), ("-x2", 2.0))
    }
    # The chosen arm has to beat the real arm at every budget.
    tested = {arm.key: arm.test["auc"].value for arm in found.arms if arm.test}
    real = [value for key, value in tested.items() if key in ("real", "real-x0.5", "real-x2")]
    difference = found.utility.difference
    assert difference is not None and len(real) == 3
    assert difference.value == pytest.approx(tested[found.utility.chosen_arm] - max(real))


def test_budgets_of_a_classifier_of_ones_own_are_left_out_and_named(
    cohort: Path, release: Path, tmp_path: Path
):
    found = with_logistic(
        release, cohort, tmp_path / "e", budgets=(1.0, 2.0), arms=("real", "real_synthetic")
    )
    assert any("evaluate.budgets is left out" in note for note in found.notes)
    assert {arm.key for arm in found.arms} == {"real", "real_synthetic-0.5", "real_synthetic-1"}


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_release_of_test_scans_is_refused_before_any_training(
    cohort: Path, release_of: Callable[[np.ndarray, np.ndarray], Path], tmp_path: Path, split: str
):
    opened = Cohort(cohort)
    rows = np.concatenate([opened.rows("train")[:5], opened.rows(split)[-3:]])
    copied = release_of(opened.take(rows), np.asarray(opened.labels)[rows])
    with pytest.raises(DataError, match="3 of its 8 images are val or test scans"):
        run_evaluate(copied, cohort, tmp_path / "e", QUICK, seed=7)
    assert not (tmp_path / "e").exists()
    with pytest.raises(DataError, match="3 of its 8 images are val or test scans"):
        released_pool(copied, opened)


@pytest.mark.parametrize(
    ("curve", "problem"),
    [({"loss": [1.0, float("nan")]}, "not finite"), ({"loss": ["low"]}, "curve of numbers")],
)
def test_a_curve_that_is_no_curve_is_named(
    cohort: Path, release: Path, tmp_path: Path, curve: dict[str, list[object]], problem: str
):
    def strange(arm: Arm, *arguments: object, **options: object) -> Fit:
        return replace(logistic(arm, *arguments, **options), curve=curve)  # type: ignore[arg-type]

    with pytest.raises(DataError, match=problem):
        run_evaluate(release, cohort, tmp_path / "e", QUICK, seed=7, fit_predict=strange)


def test_curves_of_unequal_length_have_no_mean_and_cost_nothing(cohort: Path, release: Path, tmp_path: Path):
    def uneven(arm: Arm, *arguments: object, seed: int, **options: object) -> Fit:
        fit = logistic(arm, *arguments, seed=seed, **options)  # type: ignore[arg-type]
        return replace(fit, curve={"loss": [1.0] * (1 + seed % 7)})

    quick = QUICK.model_copy(update={"arms": ("real", "real_synthetic")})
    made = run_evaluate(release, cohort, tmp_path / "e", quick, seed=7, fit_predict=uneven)
    report = read_evaluation_report(made.path)
    assert not report.curves and report.utility.verdict != "not measured"


def test_arms_hold_their_counts(report: EvaluationReport):
    counts = [(arm.num_real, arm.num_synthetic) for arm in report.arms]
    assert counts == [*[(80, 0)] * 5, (120, 0), (80, 40), (160, 0), (80, 80), (0, 120)]


def test_neighbours_are_train_scans(report: EvaluationReport, cohort: Path):
    train = set(Cohort(cohort).rows("train").tolist())
    for entries in report.nearest.values():
        assert len(entries) == QUICK.num_neighbours
        assert {entry["row"] for entry in entries} <= train


def test_everything_is_private(finished: EvaluationRef):
    assert stat.S_IMODE(finished.path.stat().st_mode) == 0o700
    for path in finished.path.rglob("*"):
        if path.is_file() and path.name != ".lock":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name


def test_predictions_hold_test_rows_of_the_arms_that_were_read_and_no_name(
    finished: EvaluationRef, report: EvaluationReport, cohort: Path
):
    table = pd.read_parquet(finished.path / "predictions.parquet")
    assert list(table) == ["arm", "seed", "split", "row", "probability_0", "probability_1"]
    read = sum(bool(arm.test) for arm in report.arms)
    assert table[table.split == "test"].arm.nunique() == read < len(report.arms)
    assert set(table[table.split == "test"].row) == set(Cohort(cohort).rows("test").tolist())


def test_the_same_again_gives_the_same_bytes(
    finished: EvaluationRef, cohort: Path, release: Path, tmp_path: Path
):
    again = run_evaluate(release, cohort, tmp_path / "again", QUICK, seed=7)
    assert again.digest == finished.digest
    verify_reference(EvaluationRef, again.path)


def test_a_finished_evaluation_is_reused_and_a_foreign_one_refused(
    finished: EvaluationRef, cohort: Path, release: Path
):
    before = (finished.path / "evaluation.json").stat().st_mtime_ns
    assert run_evaluate(release, cohort, finished.path, QUICK, seed=7) == finished
    assert (finished.path / "evaluation.json").stat().st_mtime_ns == before
    with pytest.raises(OutputExistsError):
        run_evaluate(release, cohort, finished.path, QUICK, seed=8)


def test_a_killed_run_goes_on_where_it_was(
    finished: EvaluationRef, cohort: Path, release: Path, tmp_path: Path
):
    out = tmp_path / "killed"
    code = (
        "import sys; from pathlib import Path; from pipeline.evaluate import *\n"
        "settings = EvaluateSettings.model_validate_json(sys.argv[4])\n"
        "run_evaluate(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), settings, seed=7)"
    )
    command = [sys.executable, "-c", code, str(release), str(cohort), str(out), QUICK.model_dump_json()]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    while process.poll() is None and len(list(out.glob("classifiers/*.safetensors"))) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in out.glob("classifiers/[!.]*.safetensors")}
    assert len(done) >= 3
    assert not (out / "reference.json").exists()
    resumed = run_evaluate(release, cohort, out, QUICK, seed=7)
    assert resumed.digest == finished.digest
    assert {path: path.stat().st_mtime_ns for path in done} == done


def test_a_time_budget_gives_every_arm_the_same_fewer_steps_and_is_told(
    cohort: Path, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # A step of a batch takes a tenth of a second, whatever the machine.
    monkeypatch.setattr(
        "pipeline.evaluate.training.pace_of", lambda _call, _count: Pace(0.1 * TIMED_CALLS, 1)
    )
    monkeypatch.setattr("pipeline.evaluate.training.num_workers", lambda: 2)
    num_jobs = QUICK.seeds * (4 + len(QUICK.ratios))
    hurried = QUICK.model_copy(update={"max_minutes": 10.0 * 0.1 * num_jobs / 2 / 60})
    run_evaluate(release, cohort, tmp_path / "hurried", hurried, seed=7)
    report = read_evaluation_report(tmp_path / "hurried")
    (said,) = [note for note in report.notes if "max_minutes" in note]
    planned = int(said.split()[3])
    assert len({arm.arm for arm in report.arms}) > 3
    assert {curve["step"][-1] for curve in report.curves.values()} == {float(planned)}
    assert 1 <= planned < QUICK.num_steps and f"of {QUICK.num_steps} steps" in said
    # The number is kept with what was trained, for what is left to train after a kill.
    monkeypatch.setattr("pipeline.evaluate.training.pace_of", lambda _call, _count: Pace(1e-9, 1))
    (tmp_path / "hurried" / "reference.json").unlink()
    run_evaluate(release, cohort, tmp_path / "hurried", hurried, seed=7)
    assert said in read_evaluation_report(tmp_path / "hurried").notes
    enough = QUICK.model_copy(update={"max_minutes": 1000.0})
    run_evaluate(release, cohort, tmp_path / "enough", enough, seed=7)
    assert not [note for note in read_evaluation_report(tmp_path / "enough").notes if "max_minutes" in note]


def test_a_damaged_result_is_trained_again(
    finished: EvaluationRef, cohort: Path, release: Path, tmp_path: Path
):
    out = tmp_path / "damaged"
    first = with_logistic(release, cohort, out)
    (out / "reference.json").unlink()
    victim = next(iter(sorted(out.glob("classifiers/synthetic-*.safetensors"))))
    victim.write_bytes(victim.read_bytes()[:100])
    assert with_logistic(release, cohort, out) == first


def test_another_classifier_can_be_plugged_in(cohort: Path, release: Path, tmp_path: Path):
    found = with_logistic(release, cohort, tmp_path / "own")
    assert found.curves == {}
    synthetic = found.arms[-1]
    assert synthetic.test["auc"].value > 0.7
    log = (tmp_path / "test_reads.jsonl").read_text().splitlines()
    assert len(log) == found.test_reads == 1
    assert "synthetic" in json.loads(log[0])["arms"]


def test_every_reading_of_the_test_split_counts_whatever_was_replaced(
    cohort: Path, release: Path, tmp_path: Path, make_cohort
):
    out = tmp_path / "run" / "evaluation"
    few: dict[str, object] = {"ratios": (1.0,), "seeds": 1, "encoder_steps": 2, "num_resamples": 100}
    assert with_logistic(release, cohort, out, **few).test_reads == 1
    assert with_logistic(release, cohort, out, **few).test_reads == 1  # the finished one is reused
    again = with_logistic(release, cohort, out, force=True, **few, specificity=0.8)
    assert (again.test_reads, again.test_reads_of_others) == (2, 0)
    shutil.rmtree(out)
    assert with_logistic(release, cohort, out, **few, specificity=0.8).test_reads == 3
    other = make_cohort(tmp_path / "cohort", {"train": 8, "val": 8, "test": 8, "holdout": 4}).path
    moved = with_logistic(release, other, out, force=True, **few)
    assert (moved.test_reads, moved.test_reads_of_others) == (4, 3)
    assert "read 4 times by the evaluations of this folder" in reads_words(moved)
    assert "3 of these reads were of another cohort" in reads_words(moved)
    beside = with_logistic(release, other, out.parent / "second", **few)
    assert beside.test_reads == 5
    assert folder._evaluation(out).test_reads == 5  # the report of the run counts them too


def test_an_evaluation_that_goes_on_after_a_kill_counts_its_reading_once(
    cohort: Path, release: Path, tmp_path: Path
):
    few: dict[str, object] = {"ratios": (1.0,), "seeds": 1, "encoder_steps": 2, "num_resamples": 100}
    first = with_logistic(release, cohort, tmp_path / "e", **few)
    (tmp_path / "e" / "reference.json").unlink()
    with (tmp_path / "test_reads.jsonl").open("ab") as stream:
        stream.write(b'{"arms":["re')
    assert with_logistic(release, cohort, tmp_path / "e", **few) == first
    assert first.test_reads == 1
    assert reads_words(first) == "The test split was read 1 time."


def test_labels_at_random_do_not_help_and_swapped_ones_are_noticed(
    cohort: Path, release: Path, release_of: Callable[..., Path], tmp_path: Path
):
    from pipeline.artifacts.release import read_release

    good = read_release(release, Cohort(cohort))
    noise = release_of(good.pixels, np.random.default_rng(0).permutation(good.labels))
    found = with_logistic(noise, cohort, tmp_path / "noise")
    assert found.utility.verdict != "helps"
    assert found.arms[-1].val["auc"].value < 0.7
    swapped = release_of(good.pixels[:-1], 1 - good.labels[:-1])
    found = with_logistic(swapped, cohort, tmp_path / "swapped")
    assert found.arms[-1].val["auc"].value < 0.3
    assert all(share.high < 0.5 for share in found.label_agreement.values())


def test_blurred_images_lie_further_from_real_ones_than_the_floor(
    cohort: Path, release: Path, release_of: Callable[..., Path], tmp_path: Path
):
    from pipeline.artifacts.release import read_release

    good = read_release(release, Cohort(cohort))
    blurred = gaussian_filter(good.pixels.astype(float), (0, 0, 1.0, 1.0)).astype(np.uint8)
    found = with_logistic(release_of(blurred, good.labels), cohort, tmp_path / "blurred").fidelity[0]
    perfect = with_logistic(release, cohort, tmp_path / "perfect").fidelity[0]
    assert found.kid.low > found.kid_floor.high
    assert found.fid > 2 * found.fid_floor
    assert perfect.kid.low < perfect.kid_floor.high
    assert perfect.kid.value < found.kid.value


def test_a_test_split_without_a_class_is_not_measured(release: Path, tmp_path: Path, make_cohort):
    small = make_cohort(tmp_path / "cohort", {"train": 12, "val": 8, "test": 1, "holdout": 4}).path
    found = with_logistic(release, small, tmp_path / "out")
    assert found.utility.verdict == "not measured"
    assert found.test_reads == 0
    assert any("test split has fewer than 2 patients" in note for note in found.notes)
    assert found.arms
    assert not any(arm.test for arm in found.arms)


def test_one_class_is_measured_for_fidelity_alone(tmp_path: Path, one_class):
    small, images = one_class
    found = with_logistic(images, small, tmp_path / "out")
    assert {part.scope for part in found.fidelity} == {"all", "plain"}
    assert found.arms == ()
    assert found.utility.verdict == "not measured"
    assert any("one class only" in note for note in found.notes)


def test_without_an_arm_of_real_images_alone_there_is_no_verdict(
    release: Path, cohort: Path, tmp_path: Path
) -> None:
    report = with_logistic(release, cohort, tmp_path / "e", arms=("real_augmented", "synthetic"))
    assert report.utility.verdict == "not measured"
    assert "no arm without synthetic images" in report.utility.words
