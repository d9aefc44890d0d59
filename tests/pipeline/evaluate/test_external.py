"""External tests: cohorts of other sites are measured whole and share no scan; every read counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.evaluation_report import EvaluationReport, ExternalTest, read_evaluation_report
from pipeline.artifacts.pixels import from_model_range, to_model_range
from pipeline.artifacts.privacy_report import REPORT_NAME as PRIVACY_REPORT_NAME
from pipeline.errors import DataError, OutputExistsError
from pipeline.evaluate import run_evaluate
from pipeline.evaluate.external import open_external
from pipeline.evaluate.intervals import draw_resamples, measure
from pipeline.evaluate.metrics import auc
from pipeline.evaluate.plan import plan_evaluate
from pipeline.records import CohortRef
from pipeline.report import folder
from pipeline.report.evaluation_tables import external_words
from pipeline.stage import load_reference
from pipeline.storage import write_json, write_parquet
from tests.pipeline.evaluate.conftest import CLASSES, SIZE, draw, write_cohort, write_release
from tests.pipeline.evaluate.test_run_evaluate import QUICK, logistic

SPLIT = ("train", "val", "test", "holdout")
CONTRAST = 0.14
"""Of stripes that a classifier does not always see."""
FEW = QUICK.model_copy(update={"ratios": (1.0,), "encoder_steps": 2})


def site(
    out: Path,
    *,
    seed: int,
    count: int = 120,
    contrast: float = CONTRAST,
    brighter: float = 0.0,
    labels: Sequence[int] = (0, 1),
    classes: tuple[str, ...] = CLASSES,
    pixels: np.ndarray | None = None,
    owner: str = "q",
) -> Path:
    """Write the cohort of another site: `count` scans a class in all splits, two scans a patient."""
    rng = np.random.default_rng(seed)
    if pixels is None:
        stored = np.concatenate([draw(label, count, rng, contrast) for label in labels])
        pixels = from_model_range(to_model_range(stored) + brighter, 8)
    codes = np.repeat(np.arange(len(labels)), len(pixels) // len(labels))
    patients = [f"{owner}-{i // 2}" for i in range(len(pixels))]
    split = [SPLIT[i // 2 % 4] for i in range(len(pixels))]
    return write_cohort(out, pixels, codes, split, patients, classes=classes).path


def evaluated(
    release: Path,
    cohort: Path,
    out: Path,
    external: Sequence[Path],
    *,
    force: bool = False,
    **changes: object,
) -> EvaluationReport:
    settings = FEW.model_copy(update=changes)
    run_evaluate(release, cohort, out, settings, seed=7, fit_predict=logistic, force=force, external=external)
    return read_evaluation_report(out)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return site(tmp_path_factory.mktemp("inner") / "cohort", seed=10, count=320, owner="p")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a perfect generator's images."""
    rng = np.random.default_rng(99)
    pixels = np.concatenate([draw(label, 60, rng, CONTRAST) for label in (0, 1)])
    return write_release(tmp_path_factory.mktemp("release") / "release", pixels, np.repeat([0, 1], 60)).path


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a site like the cohort, one with brighter scans, and one where stripes are harder to see."""
    base = tmp_path_factory.mktemp("sites")
    return {
        "alike": site(base / "alike", seed=11),
        "bright": site(base / "bright", seed=12, brighter=0.8),
        "faint": site(base / "faint", seed=13, contrast=0.05),
    }


@pytest.fixture(scope="module")
def finished(
    cohort: Path, release: Path, sites: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("external") / "evaluation"
    evaluated(release, cohort, out, list(sites.values()))
    return out


@pytest.fixture(scope="module")
def tests(finished: Path, sites: dict[str, Path]) -> dict[str, ExternalTest]:
    by_digest = {test.digest: test for test in read_evaluation_report(finished).external}
    return {name: by_digest[Cohort(path).digest] for name, path in sites.items()}


def test_all_scans_of_a_site_count_and_the_arm_is_the_one_chosen_on_val(
    finished: Path, tests: dict[str, ExternalTest]
) -> None:
    report = read_evaluation_report(finished)
    for test in tests.values():
        assert (test.name, test.num_scans, test.num_patients) == ("stripes", 240, 120)
        assert [arm.key for arm in test.arms] == [arm.key for arm in report.arms if arm.test]
        assert {arm.metrics["auc"].n for arm in test.arms} == {240}
        assert test.utility.chosen_arm == report.utility.chosen_arm
        assert "changed AUC on stripes by" in test.utility.words
        assert f": {test.utility.verdict}." in test.utility.words
        assert all(next(iter(arm.metrics)) == "auc" and len(arm.metrics) == 5 for arm in test.arms)


def test_the_figures_are_those_of_the_written_predictions(
    finished: Path, tests: dict[str, ExternalTest], sites: dict[str, Path]
) -> None:
    table = pd.read_parquet(finished / "predictions.parquet")
    for name, test in tests.items():
        opened = Cohort(sites[name])
        own = table[table.split == f"external-{test.digest[:12]}"]
        for arm in test.arms:
            rows = own[own.arm == arm.key]
            areas = [
                roc_auc_score(np.asarray(opened.labels)[part.row], part.probability_1)
                for _, part in rows.groupby("seed", sort=False)
            ]
            assert areas == pytest.approx(list(arm.auc_by_seed))
            assert arm.metrics["auc"].value == pytest.approx(np.mean(areas))
        assert set(own.arm) == {arm.key for arm in test.arms}


def test_a_site_where_the_finding_is_hard_to_see_shows_a_drop_and_one_alike_does_not(
    finished: Path, tests: dict[str, ExternalTest]
) -> None:
    internal = {arm.key: arm.test for arm in read_evaluation_report(finished).arms}
    for test in tests.values():
        for arm in test.arms:
            assert arm.drop is not None and arm.drop.low is not None and arm.drop.high is not None
            assert arm.drop.value == pytest.approx(internal[arm.key]["auc"].value - arm.metrics["auc"].value)
    for name in ("bright", "faint"):
        assert all(arm.drop.low > 0 for arm in tests[name].arms)
    alike = tests["alike"].arms[0].drop
    assert alike is not None and alike.low is not None and alike.high is not None
    assert alike.low < 0 < alike.high


def test_the_interval_of_the_drop_is_that_of_two_independent_samples(
    finished: Path, tests: dict[str, ExternalTest]
) -> None:
    internal = {arm.key: arm.test["auc"] for arm in read_evaluation_report(finished).arms if arm.test}

    def width(value) -> float:
        return value.high - value.low

    for arm in tests["faint"].arms:
        # The logistic regression does not depend on its seed, so patients are the only source.
        both = np.hypot(width(internal[arm.key]), width(arm.metrics["auc"]))
        assert width(arm.drop) == pytest.approx(both, rel=0.25)


def test_the_interval_of_a_drop_covers_the_true_one() -> None:
    """Both sites have patients of their own; the skill of a classifier seed is the same at both."""
    mean_gap, spread, loss = 1.2, 0.25, 0.4

    def area(gaps: np.ndarray) -> float:
        return float(norm.cdf(gaps / np.sqrt(2)).mean())

    def predicted(gaps: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        shared = rng.normal(size=len(labels))
        noise = [np.sqrt(0.7) * shared + np.sqrt(0.3) * rng.normal(size=len(labels)) for _ in gaps]
        scores = [norm.cdf(gap * labels + own) for gap, own in zip(gaps, noise, strict=True)]
        return [np.stack([1 - score, score], axis=1) for score in scores]

    skills = np.random.default_rng(0).normal(mean_gap, spread, 100_000)
    truth = area(skills) - area(skills - loss)
    covered = 0
    for seed in range(150):
        rng = np.random.default_rng([seed, 1])
        gaps, inner, outer = rng.normal(mean_gap, spread, 5), np.arange(120) % 2, np.arange(160) % 2
        draws = draw_resamples(np.arange(120), 5, 300, rng)
        there = replace(draw_resamples(np.arange(160), 5, 300, rng), seeds=draws.seeds)
        here = measure(auc, predicted(gaps, inner, rng), inner, draws)
        drop = here.minus(measure(auc, predicted(gaps - loss, outer, rng), outer, there))
        assert drop.low is not None and drop.high is not None
        covered += drop.low <= truth <= drop.high
    assert 0.9 <= covered / 150 <= 0.99


def test_internal_results_do_not_depend_on_external_tests(
    finished: Path, cohort: Path, release: Path, tmp_path: Path
) -> None:
    whole = read_evaluation_report(finished)
    alone = evaluated(release, cohort, tmp_path / "alone", [])
    assert (alone.arms, alone.utility) == (whole.arms, whole.utility)
    assert alone.external == ()
    assert not (tmp_path / "external_reads.jsonl").exists()


def test_order_and_repetition_make_no_other_evaluation_but_another_cohort_does(
    finished: Path, cohort: Path, release: Path, sites: dict[str, Path]
) -> None:
    paths = list(sites.values())
    before = (finished / "evaluation.json").read_bytes()
    evaluated(release, cohort, finished, [*reversed(paths), paths[0]])
    assert (finished / "evaluation.json").read_bytes() == before
    with pytest.raises(OutputExistsError, match="--force"):
        evaluated(release, cohort, finished, paths[:1])
    digests = {
        plan_evaluate(release, cohort, FEW, seed=7, external=given).wanted.digest
        for given in ([], paths[:1], paths[1:2], paths)
    }
    assert len(digests) == 4


def test_more_external_scans_take_more_memory_and_disk(cohort: Path, release: Path, sites: dict[str, Path]):
    alone = plan_evaluate(release, cohort, FEW, seed=7).estimate()
    more = plan_evaluate(release, cohort, FEW, seed=7, external=list(sites.values())).estimate()
    assert more.disk_bytes > alone.disk_bytes
    assert more.memory_bytes > alone.memory_bytes


def refused(given: Path, cohort: Path, release: Path, out: Path, problem: str) -> DataError:
    with pytest.raises(DataError, match=problem) as caught:
        evaluated(release, cohort, out, [given])
    assert caught.value.field == "--test-cohort"
    assert caught.value.value == str(given)
    assert caught.value.remedy
    assert caught.value.exit_code == 3
    assert not out.exists()
    return caught.value


def test_scans_of_the_cohort_in_an_external_one_are_refused_with_their_count(
    cohort: Path, release: Path, tmp_path: Path
) -> None:
    own = Cohort(cohort)
    planted = np.concatenate([own.take([0, 5, 639]), draw(0, 9, np.random.default_rng(5))])
    leaking = site(tmp_path / "leaking", seed=0, pixels=planted)
    refused(leaking, cohort, release, tmp_path / "e", "3 of its 12 scans are also in the release's cohort")
    refused(cohort, cohort, release, tmp_path / "e", "640 of its 640 scans")


def test_a_scan_from_the_same_file_is_refused_whatever_its_pixels_became(
    release: Path, tmp_path: Path, make_cohort
) -> None:
    def with_sources(path: Path, sources: dict[int, str]) -> Path:
        records = pd.read_parquet(path / "records.parquet")
        for row, source in sources.items():
            records.loc[row, "source_sha256"] = source
        write_parquet(path / "records.parquet", records, private=True)
        return path

    counts = {"train": 6, "val": 6, "test": 6, "holdout": 2}
    inner = with_sources(make_cohort(tmp_path / "inner", counts).path, {3: "ab" * 32, 4: "cd" * 32})
    other = with_sources(site(tmp_path / "other", seed=3, count=4), {1: "ab" * 32, 2: "ef" * 32})
    refused(other, inner, release, tmp_path / "e", "1 of its 8 scans are also")


def test_other_classes_other_sizes_and_what_is_no_cohort_are_refused(
    cohort: Path, release: Path, tmp_path: Path
) -> None:
    out = tmp_path / "e"
    other = site(tmp_path / "other", seed=3, count=4, classes=("dotted", "striped"))
    error = refused(other, cohort, release, out, "dotted is not known, plain is missing")
    assert "manifest" in error.remedy
    large = np.arange(8 * 4 * SIZE**2).astype(np.uint8).reshape(8, 1, 2 * SIZE, 2 * SIZE)
    larger = site(tmp_path / "larger", seed=3, pixels=large)
    error = refused(larger, cohort, release, out, "its images are 32x32, those of the release's cohort 16x16")
    assert "ingest.image_size=16" in error.remedy
    refused(release, cohort, release, out, "not an output of the cohort stage")
    refused(tmp_path, cohort, release, out, "reference.json is missing")
    refused(tmp_path / "other" / "cohort.json", cohort, release, out, "reference.json is missing")


def test_the_cohort_that_the_generator_was_trained_on_is_no_external_test(
    cohort: Path, sites: dict[str, Path]
) -> None:
    other = Cohort(sites["alike"])
    assert open_external([other.folder], Cohort(cohort))
    with pytest.raises(DataError, match="generator of the release was trained on it"):
        open_external([other.folder], Cohort(cohort), made_from=["0" * 64, other.digest])


def test_where_a_release_was_made_from_is_looked_up(
    cohort: Path, release_of, sites: dict[str, Path], tmp_path: Path
) -> None:
    made = release_of(draw(0, 4, np.random.default_rng(1)), np.array([0, 0, 1, 1]))
    write_json(made / PRIVACY_REPORT_NAME, {"cohort_digest": Cohort(sites["alike"]).digest})
    refused(sites["alike"], cohort, made, tmp_path / "e", "generator of the release was trained on it")
    # So is the cohort of a checkpoint that its training started from.
    said = {"cohort_digest": Cohort(cohort).digest, "earlier_cohorts": [Cohort(sites["alike"]).digest]}
    write_json(made / PRIVACY_REPORT_NAME, said)
    refused(sites["alike"], cohort, made, tmp_path / "f", "generator of the release was trained on it")


def test_a_site_without_a_class_is_not_measured_and_not_read(
    cohort: Path, release: Path, tmp_path: Path
) -> None:
    striped = site(tmp_path / "striped", seed=4, count=6, labels=(1,), classes=("striped",))
    (test,) = evaluated(release, cohort, tmp_path / "run" / "e", [striped]).external
    assert (test.arms, test.reads, test.utility.verdict) == ((), 0, "not measured")
    assert "fewer than 2 patients of plain" in test.utility.words
    assert not (tmp_path / "run" / "external_reads.jsonl").exists()
    table = pd.read_parquet(tmp_path / "run" / "e" / "predictions.parquet")
    assert set(table.split) == {"val", "test"}


def test_without_an_internal_test_split_there_is_an_external_result_but_no_drop(
    release: Path, sites: dict[str, Path], tmp_path: Path, make_cohort
) -> None:
    small = make_cohort(tmp_path / "small", {"train": 12, "val": 8, "test": 1, "holdout": 4}, seed=21).path
    report = evaluated(release, small, tmp_path / "e", [sites["alike"]])
    assert report.utility.verdict == "not measured"
    (test,) = report.external
    assert test.arms and all(arm.drop is None for arm in test.arms)
    assert test.utility.verdict != "not measured"


def test_every_read_of_an_external_cohort_counts_for_that_cohort(
    cohort: Path, release: Path, sites: dict[str, Path], tmp_path: Path
) -> None:
    out, few = tmp_path / "run" / "evaluation", {"seeds": 1, "num_resamples": 100}
    alike, faint = sites["alike"], sites["faint"]

    def reads(report: EvaluationReport) -> dict[str, int]:
        return {test.digest: test.reads for test in report.external}

    both = [Cohort(alike).digest, Cohort(faint).digest]
    first = evaluated(release, cohort, out, [alike, faint], **few)
    assert reads(first) == dict.fromkeys(both, 1)
    assert first.test_reads == 1
    # An evaluation that goes on after a kill reads none of them twice.
    (out / "reference.json").unlink()
    assert evaluated(release, cohort, out, [alike, faint], **few) == first
    again = evaluated(release, cohort, out, [faint], force=True, **few)
    assert reads(again) == {both[1]: 2}
    assert again.test_reads == 2
    assert "read 2 times by the evaluations of this folder" in external_words(again.external[0])
    beside = evaluated(release, cohort, out.parent / "second", [faint], specificity=0.8, **few)
    assert reads(beside) == {both[1]: 3}
    assert reads(folder._evaluation(out)) == {both[1]: 3}
    log = [json.loads(line) for line in (out.parent / "external_reads.jsonl").read_text().splitlines()]
    assert [entry["cohort"] for entry in log].count(both[0]) == 1
    assert all(entry["arms"] == [arm.key for arm in first.external[0].arms] for entry in log)


def test_patients_with_equal_ids_are_told_because_nobody_can_know_them(
    cohort: Path, tmp_path: Path, sites: dict[str, Path]
) -> None:
    equal_ids = site(tmp_path / "other", seed=31, count=16, owner="p")
    (own,) = open_external([load_reference(CohortRef, equal_ids)], Cohort(cohort))
    assert "16 of its patient ids are also ids of the release's cohort" in own.notes[0]
    (other,) = open_external([sites["alike"]], Cohort(cohort))
    assert other.notes == ()


def test_delong_is_given_for_the_pair_of_the_verdict(finished: Path, cohort: Path) -> None:
    report = read_evaluation_report(finished)
    found, verdict = report.utility.delong, report.utility
    assert found is not None and verdict.difference is not None
    table = pd.read_parquet(finished / "predictions.parquet")
    table = table[table.split == "test"]
    areas = [
        roc_auc_score(
            np.asarray(Cohort(cohort).labels)[
                (mean := table[table.arm == key].groupby("row")).mean(True).index
            ],
            mean.probability_1.mean(),
        )
        for key in (verdict.chosen_arm, verdict.compared_with)
    ]
    assert found.difference.value == pytest.approx(areas[0] - areas[1])
