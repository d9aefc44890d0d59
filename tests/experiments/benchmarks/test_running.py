"""A benchmark that has not been run for a while must still run: the quick ones are, at their smallest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.evaluation.training import ClassifierTraining
from pipeline.artifacts.cohort import Cohort
from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import load_manifest
from tests.cohorts import write_cohort
from tests.experiments.benchmarks import (
    agreement,
    enlarged,
    gate,
    large_images,
    overhead,
    sampling,
    training,
    ways,
)
from tests.experiments.benchmarks.judging import Judge
from tests.experiments.benchmarks.real_cohort import MANIFESTS
from tests.experiments.benchmarks.rows import Row, Skipped
from tests.pipeline.privacy.sets import fresh, write_candidates

SMALL: dict[str, Callable[[], Iterable[Row | Skipped]]] = {
    "sampling": lambda: sampling.measure(rounds=1, per_class=4, train_steps=2),
    "training": lambda: training.measure(rounds=1, steps=20, image_size=8),
    "gate": lambda: gate.measure(train=64, holdout=16, candidates=8, size=16, features=400),
    "overhead": lambda: overhead.measure(rounds=1, steps=20, image_size=8),
    "large_images": lambda: large_images.measure(
        rounds=1, steps=20, size=32, large=48, peer_batch=2, per_class=2
    ),
}


SLOWER = ("training", "large_images")
"""Each of their rows starts processes of large libraries: over half a minute on a busy machine."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOWER else ()) for name in SMALL]
)
def test_it_runs_and_gives_ratios(name: str) -> None:
    rows = [row for row in SMALL[name]() if isinstance(row, Row)]
    assert rows
    assert all(ratio > 0 for row in rows for ratio in row.ratios)


def test_agreement_reads_what_was_drawn_and_notices_a_wrong_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cohort(tmp_path / "cohort", num_scans=300)
    pixels, labels = fresh(60, seed=1)
    wrong = np.where(np.arange(60) < 30, labels, (labels + 1) % 3)
    write_candidates(tmp_path / "candidates", pixels, wrong, per_class=20)
    assert agreement.main([str(tmp_path), "--seeds", "0", "--steps", "150"]) == 0
    told = dict(re.findall(r"seed 0: (val scans|drawn): ([0-9.]+) of", capsys.readouterr().out))
    assert float(told["val scans"]) > 0.9
    assert 0.4 <= float(told["drawn"]) <= 0.6


def test_a_release_is_enlarged_class_by_class(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (24, 1))
    for name in ("normal", "ring"):
        (tmp_path / "release" / "images" / name).mkdir(parents=True)
        Image.fromarray(ramp).save(tmp_path / "release" / "images" / name / f"{name}-00001.png")
    assert enlarged.main([str(tmp_path / "release"), str(tmp_path / "out"), "--size", "84"]) == 0
    for name in ("normal", "ring"):
        with Image.open(tmp_path / "out" / name / f"{name}-00001.png") as image:
            larger = np.asarray(image).astype(int)
        assert larger.shape == (84, 84)
        assert abs(np.diff(larger[:, 10:-10], axis=1) - 10 * 24 / 84).max() < 1.5
    assert enlarged.main([str(tmp_path), str(tmp_path / "out"), "--size", "84"]) == 1


def test_a_way_of_smaller_images_is_judged_at_the_size_of_the_others(tmp_path: Path) -> None:
    manifest = load_manifest(MANIFESTS / "phantom.yaml")
    source = {"num_patients": 160, "image_size": 64}
    [phantom] = manifest.sources
    changed = phantom.model_copy(update={"settings": phantom.settings.model_copy(update=source)})
    manifest = manifest.model_copy(update={"sources": (changed,)})
    settings = ["ingest.image_size=16", "train.num_steps=2", "train.max_minutes=null", "sample.per_class=4"]
    large = run_ingest(manifest, tmp_path / "large", IngestSettings(image_size=32))
    judge = Judge(Cohort(large.path), ClassifierTraining(num_steps=2, batch_size=8))
    trial = ways.trial(manifest, tmp_path, "smaller", settings, 0, judge)
    assert trial.steps == 2 and len(trial.worth.power) == len(judge.power)


def test_pixels_of_a_smaller_way_are_enlarged() -> None:
    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (2, 1, 24, 1))
    larger = ways.at_size(ramp, (48, 48))
    assert larger.shape == (2, 1, 48, 48) and abs(np.diff(larger[:, 0, :, 8:-8].astype(int)) - 5).max() <= 1
    assert ways.at_size(ramp, (24, 24)) is ramp
