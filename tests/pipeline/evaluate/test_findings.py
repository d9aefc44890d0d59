"""Scans with several findings: each finding is measured among the scans where it is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.evaluation_report import read_evaluation_report
from pipeline.artifacts.findings import requested_findings
from pipeline.artifacts.pixels import from_model_range
from pipeline.artifacts.release import read_release
from pipeline.errors import DataError
from pipeline.evaluate import run_evaluate
from pipeline.evaluate.agreement import label_agreement
from pipeline.evaluate.arms import Arm, Pool, confirmed
from pipeline.evaluate.external import open_external
from pipeline.evaluate.intervals import ArmMetric
from pipeline.evaluate.metrics import auc, balanced_accuracy, brier, ece, sensitivity_at
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.study.cell import run_cell
from pipeline.evaluate.study.report import StudyReport, StudyRow, measure_row
from pipeline.evaluate.study.sites import draw_site
from pipeline.evaluate.training import BuiltIn, Fit, OfImages
from pipeline.evaluate.truth import Question, Truth, patient_numbers
from pipeline.rendering.templating import render
from pipeline.report.evaluation_tables import part_tables
from pipeline.report.page import evaluation_context
from pipeline.report.study import write_study_page
from tests.pipeline.evaluate.conftest import SIZE, write_cohort, write_release

FINDINGS = ("across", "down")
CLASSES = ("across", "down", "none")


def states_of(count: int, rng: np.random.Generator) -> np.ndarray:
    """Findings (count, 2) of which every combination occurs equally often."""
    return rng.permutation(np.stack([np.arange(count) % 2, np.arange(count) // 2 % 2], axis=1))


def striped(states: np.ndarray, rng: np.random.Generator, contrast: float) -> np.ndarray:
    """Noise; the first finding is stripes along the rows, the second one along the columns."""
    n = len(states)
    images = rng.normal(0.0, 0.25, (n, 1, 1, 1)) + rng.normal(0.0, 0.3, (n, 1, SIZE, SIZE))
    for k, shape in enumerate(((1, 1, SIZE, 1), (1, 1, 1, SIZE))):
        phase = rng.uniform(0, 2 * np.pi, (n, 1, 1, 1))
        waves = np.sin(np.arange(SIZE).reshape(shape) * np.pi / 2 + phase)
        images = images + contrast * states[:, k].reshape(-1, 1, 1, 1) * waves
    return from_model_range(images, 8)


def classes_of(states: np.ndarray) -> np.ndarray:
    return np.where(states[:, 0] == 1, 0, np.where(states[:, 1] == 1, 1, 2))


def make_cohort(folder: Path, counts: dict[str, int], contrast: float, uncertain: float = 0.2) -> Cohort:
    rng = np.random.default_rng(0)
    parts = {name: states_of(count, rng) for name, count in counts.items()}
    states = np.concatenate(list(parts.values()))
    codes = np.where(rng.random(states.shape) < uncertain, 2, states).astype(np.uint8)
    reference = write_cohort(
        folder,
        striped(states, rng, contrast),
        classes_of(states),
        [name for name, own in parts.items() for _ in own],
        [f"p-{name}-{row // 2}" for name, own in parts.items() for row in range(len(own))],
        CLASSES,
        {name: codes[:, k] for k, name in enumerate(FINDINGS)},
    )
    return Cohort(reference.path)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("findings") / "cohort"
    return make_cohort(folder, {"train": 80, "val": 60, "test": 120, "holdout": 10}, contrast=0.5)


def spectral(arm: Arm, parts, asked, *, num_classes: int, seed: int) -> Fit:
    """Logistic regression of each finding on the spectra of rows and columns, where it is known."""
    from sklearn.linear_model import LogisticRegression

    def spectrum(x: np.ndarray) -> np.ndarray:
        along = [np.abs(np.fft.rfft(x[:, 0], axis=axis)).mean(axis=3 - axis) for axis in (1, 2)]
        return np.log(np.concatenate(along, axis=1) + 1e-3)

    [(images, targets)] = parts
    assert targets.shape == (len(images), num_classes)
    read = [np.empty((len(x), num_classes), dtype=np.float32) for x in asked]
    for k in range(num_classes):
        known = ~np.isnan(targets[:, k])
        model = LogisticRegression(class_weight="balanced").fit(spectrum(images[known]), targets[known, k])
        for out, x in zip(read, asked, strict=True):
            out[:, k] = model.predict_proba(spectrum(x))[:, 1]
    return Fit(tuple(read))


def test_each_finding_counts_among_the_scans_where_it_is_known() -> None:
    rng = np.random.default_rng(1)
    truth = np.where(rng.random((90, 3)) < 0.2, np.nan, rng.integers(0, 2, (90, 3)).astype(float))
    scores = rng.random((90, 3))
    each = [roc_auc_score(truth[known, k], scores[known, k]) for k, known in enumerate((~np.isnan(truth)).T)]
    once = np.ones((1, 90))
    assert auc(scores, truth, once)[0] == pytest.approx(np.mean(each))
    # Uncertain scans may be read as anything.
    other = np.where(np.isnan(truth), rng.random((90, 3)), scores)
    for metric in (auc, balanced_accuracy, brier, ece, sensitivity_at(0.9)):
        assert metric(other, truth, once)[0] == pytest.approx(metric(scores, truth, once)[0])


def test_a_draw_without_one_of_the_findings_is_not_measured() -> None:
    truth = np.array([[1, 1], [0, 0], [1, 0], [0, 0.0]])
    scores = np.array([[0.9, 0.1], [0.1, 0.2], [0.8, 0.3], [0.2, 0.4]])
    weights = np.array([[1, 1, 1, 1], [0, 1, 1, 1.0]])
    assert auc(scores, truth, weights) == pytest.approx([0.5, np.nan], nan_ok=True)
    nowhere_known = np.full((4, 2), np.nan)
    for metric in (auc, balanced_accuracy, brier, ece, sensitivity_at(0.9)):
        assert np.isnan(metric(scores, nowhere_known, weights)).all()


def test_the_sensitivity_of_a_finding_is_that_for_its_presence() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 2, (200, 1)).astype(float)
    scores = rng.normal(truth, np.where(truth == 1, 2.0, 0.5))
    false_rate, true_rate, _ = roc_curve(truth[:, 0], scores[:, 0], drop_intermediate=False)
    found = sensitivity_at(0.9)(scores, truth, np.ones((1, 200)))[0]
    assert found == pytest.approx(true_rate[false_rate <= 0.1].max())


def test_a_subgroup_is_measured_on_the_findings_that_it_has() -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, (80, 2)).astype(float)
    women = np.arange(80) < 40
    labels[women, 1] = np.nan
    labels[0, 1] = 1.0
    truth = Truth(
        labels, np.arange(80), {"sex F": women, "sex M": ~women, "view PA": np.zeros(80, dtype=bool)}
    )
    parts = truth.measurable_groups(FINDINGS)
    assert {name: part.columns for name, part in parts.items()} == {"sex F": (0,), "sex M": (0, 1)}
    assert truth.finding(1).scans.sum() == 41


def test_corrected_ends_beyond_all_draws_are_not_taken_from_them() -> None:
    rng = np.random.default_rng(5)
    draws = rng.normal(0.01, 0.02, 1000)
    own, other = ArmMetric(np.array([0.91]), draws, 100), ArmMetric(np.array([0.9]), np.zeros(1000), 100)
    sure, corrected = own.minus(other), own.minus(other, comparisons=100)
    assert sure.high == pytest.approx(np.quantile(draws, 0.975))
    assert corrected.low == sure.low and corrected.high is not None
    assert corrected.high == pytest.approx(0.01 + 3.48 * draws.std(ddof=1), rel=0.01)


def test_a_request_counts_before_the_class_and_an_unknown_finding_stays_unknown(cohort: Cohort) -> None:
    labels = np.array([0, 1, 2])
    by_class = requested_findings(cohort.info, labels, {})
    assert np.array_equal(by_class, [[1, np.nan], [np.nan, 1], [0, 0]], equal_nan=True)
    asked = requested_findings(cohort.info, labels, {"down": [1, None, None]})
    assert np.array_equal(asked, [[1, 1], [np.nan, 1], [0, 0]], equal_nan=True)
    rare = cohort.info.model_copy(update={"classes": ("across", "none")})
    # A finding that is no class of its own may be in any image.
    assert np.array_equal(
        requested_findings(rare, np.array([0, 1]), {}), [[1, np.nan], [0, np.nan]], equal_nan=True
    )


def test_a_finding_of_too_few_patients_is_left_out_and_named(tmp_path: Path, cohort: Cohort) -> None:
    assert Question.of(cohort).names == FINDINGS and not Question.of(cohort).notes
    codes = np.asarray(cohort.findings()).copy()
    codes[cohort.rows("val"), 1] = 0
    reference = write_cohort(
        tmp_path / "rare",
        cohort.take(np.arange(len(codes))),
        np.asarray(cohort.labels),
        [("train", "val", "test", "holdout")[code] for code in np.asarray(cohort.split)],
        cohort.records()["patient_id"].tolist(),
        CLASSES,
        {name: codes[:, k] for k, name in enumerate(FINDINGS)},
    )
    question = Question.of(Cohort(reference.path))
    assert question.names == ("across",)
    assert "down is left out" in question.notes[0]
    assert question.of_scans(cohort, cohort.rows("test")).shape == (120, 1)


def test_agreement_and_choice_ask_for_what_was_requested() -> None:
    targets = np.array([[1, 0], [1, np.nan], [0, 1], [0, 0]])
    probabilities = np.array([[0.9, 0.2], [0.7, 0.9], [0.1, 0.4], [0.2, 0.45]])
    read = (probabilities > 0.5).astype(np.int64)
    shares = {name: own.value for name, own in label_agreement(read, targets, FINDINGS).items()}
    assert shares == {"across": 1.0, "down": 0.0}
    chosen = confirmed(classes_of(np.nan_to_num(targets)), targets, probabilities, seed=0)
    assert set(np.concatenate(list(chosen.order.values())).tolist()) == {0, 1, 3}
    assert chosen.uncertain[0].tolist() == [1, 0]


SETTINGS = EvaluateSettings(
    seeds=2,
    ratios=(1.0,),
    arms=("real", "real_balanced", "real_duplicated", "real_synthetic", "agreeing", "synthetic"),
    num_resamples=200,
    encoder_steps=20,
)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(5)
    states = states_of(120, rng)
    columns = {name: states[:, k].astype(np.uint8) for k, name in enumerate(FINDINGS)}
    folder = tmp_path_factory.mktemp("made") / "release"
    return write_release(folder, striped(states, rng, 0.5), classes_of(states), CLASSES, columns).path


def test_an_evaluation_reports_each_finding(cohort: Cohort, release: Path, tmp_path: Path) -> None:
    made = run_evaluate(release, cohort.folder, tmp_path / "e", SETTINGS, seed=1, fit_predict=spectral)
    report = read_evaluation_report(made.path)
    assert set(report.utility.by_finding) == set(report.label_agreement) == set(FINDINGS)
    assert report.asked == "findings"
    best = next(arm for arm in report.arms if arm.key == report.utility.compared_with)
    each = [best.test[f"auc of {name}"].value for name in FINDINGS]
    assert best.test["auc"].value == pytest.approx(np.mean(each)) and min(each) > 0.9
    [across, down] = part_tables(report, report.utility)["finding"]
    assert (across.name, down.name) == FINDINGS
    tests = {
        arm.key: arm.test["auc of down"].value for arm in report.arms if arm.test and not arm.num_synthetic
    }
    rival = report.utility.by_finding["down"].compared_with
    assert down.real.value == tests[rival] == max(tests.values())
    assert down.change.value == pytest.approx(down.synthetic.value - down.real.value)
    known = (np.asarray(cohort.findings())[cohort.rows("test"), 1] != 2).sum()
    assert down.change.n == down.real.n == known
    assert report.label_agreement["down"].value > 0.8 > report.label_agreement_shuffled["down"].value


def test_another_site_is_measured_on_the_findings_that_it_has(
    cohort: Cohort, release: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(11)
    states = states_of(120, rng)
    rare = np.array([1] + [0] * 119, dtype=np.uint8)
    sites = {
        "one": {"across": states[:, 0].astype(np.uint8)},
        "rare": {"across": states[:, 0].astype(np.uint8), "down": rare},
        "neither": {"nodule": rare},
    }
    places = {
        name: write_cohort(
            tmp_path / name,
            striped(states, rng, 0.5),
            classes_of(states),
            ["test"] * 120,
            [f"q-{row}" for row in range(120)],
            CLASSES,
            findings,
        ).path
        for name, findings in sites.items()
    }
    with pytest.raises(DataError, match="across, down is missing"):
        open_external([places["neither"]], cohort)
    external = [places["one"], places["rare"]]
    made = run_evaluate(
        release, cohort.folder, tmp_path / "e", SETTINGS, seed=1, fit_predict=spectral, external=external
    )
    report = read_evaluation_report(made.path)
    inside = {arm.key: arm.test["auc of across"].value for arm in report.arms if arm.test}
    for test in report.external:
        assert any("down is left out" in note for note in test.notes)
        assert set(test.utility.by_finding) == {"across"}
        for arm in test.arms:
            outside = arm.metrics["auc"].value
            assert outside == arm.metrics["auc of across"].value > 0.8
            assert arm.drop is not None and arm.drop.value == pytest.approx(inside[arm.key] - outside)
    page = render("evaluation.html.j2", **evaluation_context(report))
    assert page.count("Test AUC by finding") == 1 and page.count("AUC there by finding") == 2
    [row] = part_tables(report, report.external[0].utility)["finding"]
    assert row.change == report.external[0].utility.by_finding["across"].change


def test_the_built_in_classifier_learns_findings(cohort: Cohort, release: Path, tmp_path: Path) -> None:
    quick = SETTINGS.model_copy(update={"arms": ("real", "real_synthetic"), "num_steps": 60, "seeds": 1})
    made = run_evaluate(release, cohort.folder, tmp_path / "e", quick, seed=1)
    arms = {arm.arm: arm for arm in read_evaluation_report(made.path).arms}
    assert arms["real_synthetic"].test["auc"].value > 0.8
    assert arms["real"].test["auc of across"].value > 0.6


def test_a_built_in_classifier_predicts_each_finding_by_itself() -> None:
    rng = np.random.default_rng(2)
    states = states_of(64, rng)
    images = striped(states, rng, 0.8)
    settings = EvaluateSettings(num_steps=120, batch_size=32)
    arm = Arm("real_balanced", None, (64,), (0,), BuiltIn.of(settings).training.augmentation)
    fit = BuiltIn.of(settings)(arm, [(images, states.astype(float))], [images], num_classes=2, seed=0)
    assert fit.probabilities[0].sum(axis=1).max() > 1.5
    assert auc(fit.probabilities[0], states.astype(float), np.ones((1, 64)))[0] > 0.95


def test_a_release_with_other_values_of_a_finding_is_refused(cohort: Cohort, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    states = states_of(8, rng)
    wrong = {"down": np.full(8, 3, dtype=np.uint8)}
    made = write_release(tmp_path / "r", striped(states, rng, 0.5), classes_of(states), CLASSES, wrong)
    with pytest.raises(DataError, match="down is neither 0 nor 1"):
        read_release(made.path, cohort)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("large") / "cohort"
    return make_cohort(folder, {"train": 120, "val": 60, "test": 300, "holdout": 8}, contrast=0.12)


def studied(whole: Cohort, folder: Path, *, right: bool) -> StudyRow:
    """Four sites of six scans a class; the generator is perfect, or its findings are the wrong way round."""
    rng = np.random.default_rng(8)
    states = states_of(200, rng)
    images = striped(states, rng, 0.12)
    findings = states.astype(float)
    pool = Pool(classes_of(states), lambda rows: images[rows], findings if right else 1 - findings)
    counts = dict.fromkeys(range(3), 6)
    cells = [
        run_cell(
            whole,
            draw_site(whole, whole.rows("train"), counts, seed=2, draw=draw, holdout=False),
            pool,
            folder / str(draw),
            SETTINGS.model_copy(update={"ratios": (8.0,)}),
            seed=draw,
            classifier=OfImages(spectral),
            source="s" * 64,
        )
        for draw in range(4)
    ]
    question, patients = Question.of(whole), patient_numbers(whole)
    val, test = (question.truth(whole, split, patients) for split in ("val", "test"))
    return measure_row("self", 6, cells, val, test, findings=FINDINGS, num_rows=1, num_resamples=200, seed=0)


def test_a_perfect_generator_of_findings_helps_and_wrong_findings_do_not(
    large: Cohort, tmp_path: Path
) -> None:
    row = studied(large, tmp_path / "right", right=True)
    assert row.verdict == "helps", row.words
    assert set(row.by_finding) == set(FINDINGS)
    assert all(part.change.value > 0.02 for part in row.by_finding.values())
    every = {arm.key: arm.difference for arm in row.arms if arm.difference is not None}
    assert set(every) == {"real_synthetic-8", "agreeing-8", "synthetic"}
    alone, among = row.difference, every[row.chosen]
    assert alone is not None and alone.value == among.value
    assert alone.low is not None and among.low is not None and among.low < alone.low
    report = StudyReport(
        cohort_digest="c" * 64, classifier="own", num_test=300, num_test_patients=150, rows=(row,)
    )
    page = write_study_page(tmp_path, report).read_text()
    assert f"For down: {row.by_finding['down'].change.value:+.3f}" in page
    wrong = studied(large, tmp_path / "wrong", right=False)
    assert wrong.verdict != "helps"
    tests = {arm.key: arm.test for arm in wrong.arms}
    assert tests["synthetic"] < 0.3 < tests["real"]
