"""A fidelity metric is one entry of a table: with it alone, evaluations hold it and every page shows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flows.artifacts import metric_rows
from pipeline.artifacts.evaluation_report import Estimate, EvaluationReport, read_evaluation_report
from pipeline.evaluate import EvaluateSettings, run_evaluate
from pipeline.evaluate.fidelity.measure import METRICS, FeatureSet
from pipeline.rendering.templating import render
from pipeline.report.page import evaluation_context

QUICK = EvaluateSettings(
    seeds=1, ratios=(1.0,), num_steps=5, batch_size=16, encoder_steps=20, num_resamples=100
)
BUILT_IN = ("kid", "fid", "detail_power")


def shift(x: FeatureSet, y: FeatureSet) -> float:
    """Return how far the means lie apart."""
    return float(np.linalg.norm(x.features.mean(axis=0) - y.features.mean(axis=0)))


def spread(x: FeatureSet, y: FeatureSet) -> Estimate:
    """Return the difference in spread, with some interval."""
    value = float(x.features.std() - y.features.std())
    return Estimate(value=value, low=value - 0.25, high=value + 0.25, n=len(x.labels))


@pytest.fixture(scope="module")
def report(cohort: Path, release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Evaluate with two more metrics, one with an interval and one without, and take them out again."""
    METRICS["mean_shift"], METRICS["spread"] = shift, spread
    out = tmp_path_factory.mktemp("measured") / "evaluation"
    run_evaluate(release, cohort, out, QUICK, seed=7)
    yield out
    del METRICS["mean_shift"], METRICS["spread"]


def test_the_evaluation_holds_both_beside_their_floors(report: Path) -> None:
    scopes = json.loads((report / "evaluation.json").read_text(encoding="utf-8"))["fidelity"]
    assert [part["scope"] for part in scopes] == ["all", "plain", "striped"]
    for part in scopes:
        assert part["mean_shift"] > 0 and part["mean_shift_floor"] > 0
        assert part["spread"]["high"] - part["spread"]["low"] == pytest.approx(0.5)
    found = read_evaluation_report(report).fidelity[0]
    assert [distance.name for distance in found.distances] == [*BUILT_IN, "mean_shift", "spread"]
    assert isinstance(found.distances[4].floor, Estimate)


def page_of(report: EvaluationReport) -> str:
    """Return the part of the page that shows an evaluation."""
    return render("evaluation.html.j2", **evaluation_context(report))


def test_the_report_and_the_flow_show_them(report: Path) -> None:
    found = read_evaluation_report(report)
    page = page_of(found)
    assert '<th class="n">Mean shift</th><th class="n">Mean shift floor</th><th>Spread</th>' in page
    whole = found.fidelity[0].distances
    assert isinstance(whole[3].value, float) and f'<td class="n">{whole[3].value:.2f}</td>' in page
    rows = {(row["measure"], row["scope"]): row for row in metric_rows(found)}
    assert rows["Spread", "all"]["high"] > rows["Spread", "all"]["low"]
    assert rows["Mean shift floor (real to real)", "striped"]["value"] > 0


def test_an_evaluation_without_them_is_written_as_before(
    cohort: Path, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mean_shift", "spread"):
        monkeypatch.delitem(METRICS, name, raising=False)
    run_evaluate(release, cohort, tmp_path / "plain", QUICK, seed=7)
    parts = json.loads((tmp_path / "plain" / "evaluation.json").read_text(encoding="utf-8"))["fidelity"]
    known = {"scope", "num_synthetic", "num_real", *BUILT_IN, *(f"{name}_floor" for name in BUILT_IN)}
    assert all(part.keys() == known for part in parts)
    assert "Spread" not in page_of(read_evaluation_report(tmp_path / "plain"))
