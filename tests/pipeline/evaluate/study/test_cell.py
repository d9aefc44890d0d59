"""Whole cells with known truth: a perfect generator helps, duplicates and wrong labels do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.privacy_report import REPORT_NAME as PRIVACY_REPORT_NAME
from pipeline.evaluate.arms import Pool
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.study.cell import read_cell, run_cell, start_of
from pipeline.evaluate.study.report import StudyRow, measure_row
from pipeline.evaluate.study.sites import Site, draw_site
from pipeline.evaluate.training import OfImages
from pipeline.evaluate.truth import Question, patient_numbers
from pipeline.records import CellRef
from pipeline.storage import write_json
from tests.pipeline.evaluate.conftest import draw, write_cohort
from tests.pipeline.evaluate.test_run_evaluate import logistic

SETTINGS = EvaluateSettings(
    seeds=2,
    ratios=(1.0, 8.0),
    arms=("real", "real_balanced", "real_duplicated", "real_synthetic", "agreeing", "balancing", "synthetic"),
)
SITES, SIZE = 4, 6


CONTRAST = 0.12
"""Stripes so faint that six scans of a class are too few to learn them."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    rng = np.random.default_rng(0)
    pixels, labels, split, patients = [], [], [], []
    for name, count in {"train": 60, "val": 30, "test": 150, "holdout": 10}.items():
        for label in (0, 1):
            pixels.append(draw(label, count, rng, CONTRAST))
            labels += [label] * count
            split += [name] * count
            patients += [f"p-{name}-{label}-{number // 2}" for number in range(count)]
    folder = tmp_path_factory.mktemp("large") / "cohort"
    return Cohort(write_cohort(folder, np.concatenate(pixels), np.array(labels), split, patients).path)


def site_of(whole: Cohort, number: int) -> Site:
    return draw_site(whole, whole.rows("train"), {0: SIZE, 1: SIZE}, seed=2, draw=number, holdout=False)


def cell(whole: Cohort, out: Path, number: int, pool: Pool, **changes: object) -> CellRef:
    values = {"seed": number, "classifier": OfImages(logistic), "source": "s" * 64} | changes
    return run_cell(whole, site_of(whole, number), pool, out, SETTINGS, **values)  # type: ignore[arg-type]


def studied(whole: Cohort, folder: Path, pool_of: Callable[[Site], Pool]) -> StudyRow:
    cells = [
        cell(whole, folder / str(number), number, pool_of(site_of(whole, number))) for number in range(SITES)
    ]
    asked, patients = Question.of(whole), patient_numbers(whole)
    val, test = (asked.truth(whole, split, patients) for split in ("val", "test"))
    return measure_row("self", SIZE, cells, val, test, findings=(), num_rows=1, num_resamples=200, seed=0)


def drawn(labels: np.ndarray, seed: int) -> Pool:
    """As good as new scans: images of the very distribution of the real ones."""
    rng = np.random.default_rng(seed)
    images = np.concatenate([draw(int(label), 1, rng, CONTRAST) for label in labels])
    return Pool(labels, lambda rows: images[rows])


LABELS = np.repeat([0, 1], 60)


def test_a_perfect_generator_helps(large: Cohort, tmp_path: Path) -> None:
    row = studied(large, tmp_path, lambda _: drawn(LABELS, 5))
    assert row.verdict == "helps", row.words
    assert row.difference is not None and row.difference.value > 0.02
    assert (row.sites, row.seeds) == (SITES, 2) and "helps" in row.words


def test_exact_duplicates_as_synthetic_images_do_not_help(large: Cohort, tmp_path: Path) -> None:
    def again(site: Site) -> Pool:
        rows = np.repeat(site.rows["train"], 8)
        return Pool(np.asarray(large.labels)[rows].astype(np.int64), lambda own: large.take(rows[own]))

    row = studied(large, tmp_path, again)
    assert row.verdict != "helps"
    assert row.difference is not None and abs(row.difference.value) < 0.02, row.words


def test_a_generator_that_started_from_the_whole_cohort_is_told(large: Cohort, tmp_path: Path) -> None:
    for earlier, told in (([], 0), (["1" * 64], 0), (["1" * 64, large.digest], 1)):
        write_json(tmp_path / PRIVACY_REPORT_NAME, {"cohort_digest": "2" * 64, "earlier_cohorts": earlier})
        assert len(start_of(tmp_path, large)) == told


def test_wrong_labels_do_not_help(large: Cohort, tmp_path: Path) -> None:
    def wrong(_: Site) -> Pool:
        pool = drawn(LABELS, 6)
        return Pool(1 - pool.labels, pool.load)

    row = studied(large, tmp_path, wrong)
    assert row.verdict in ("harms", "could not tell", "no measurable effect")
    tests = {arm.key: arm.test for arm in row.arms}
    assert tests["synthetic"] < 0.3 < tests["real"]
    # Choosing by a classifier of real images sorts some of the wrong ones out.
    assert tests["agreeing-8"] > tests["real_synthetic-8"]


def test_a_cell_is_made_once_and_says_what_it_holds(large: Cohort, tmp_path: Path) -> None:
    pool = drawn(LABELS, 5)
    calls: list[str] = []

    def counted(arm: object, *arguments: object, **options: object) -> object:
        calls.append(str(arm))
        return logistic(arm, *arguments, **options)  # type: ignore[arg-type]

    first = cell(large, tmp_path / "c", 0, pool, classifier=counted, gate="PASS", notes=("a note",))
    made = len(calls)
    assert cell(large, tmp_path / "c", 0, pool, classifier=counted, gate="PASS", notes=("a note",)) == first
    assert len(calls) == made > 0
    found, scores = read_cell(first)
    assert (found.gate, found.notes[0], found.num_train) == ("PASS", "a note", (SIZE, SIZE))
    assert found.reader in ("real", "real_balanced")
    for split, count in {"val": 60, "test": 300}.items():
        assert {value.shape for value in scores[split].values()} == {(2, count, 2)}
        assert set(scores[split]) == {arm.key for arm in found.arms}
