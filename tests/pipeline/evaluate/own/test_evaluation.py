"""A whole evaluation with the program that the page shows: it is measured, goes on, and is made anew."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from pipeline.artifacts.evaluation_report import read_evaluation_report
from pipeline.errors import DataError, OutputExistsError
from pipeline.evaluate import EvaluateSettings, run_evaluate
from pipeline.report.evaluation_tables import seeds_words

ROOT = Path(__file__).resolve().parents[4]
QUICK = EvaluateSettings(
    seeds=1,
    arms=("real", "real_strong", "real_synthetic", "synthetic"),
    ratios=(1.0,),
    num_steps=5,
    batch_size=16,
    encoder_steps=20,
    num_resamples=100,
)


def shown_program() -> str:
    [program] = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    return program


def test_the_program_of_the_page_is_measured_and_its_evaluation_goes_on_after_a_failure(
    release: Path, cohort: Path, tmp_path: Path
) -> None:
    assert len(shown_program().splitlines()) < 40
    path, out = tmp_path / "train.py", tmp_path / "e"
    stop = f"""
if job["arm"] == "real_synthetic-1" and not Path({str(tmp_path / "go")!r}).exists():
    sys.exit(5)
"""
    path.write_text(shown_program().replace("\n\n\n", f"\n{stop}\n", 1), encoding="utf-8")
    command = shlex.join([sys.executable, str(path)])
    settings = QUICK.model_copy(update={"classifier": "command", "command": command})
    with pytest.raises(DataError, match="exit code 5 in arm real_synthetic-1"):
        run_evaluate(release, cohort, out, settings, seed=7)
    kept = {path: path.stat().st_mtime_ns for path in (out / "classifiers").glob("real-*.safetensors")}
    assert len(kept) == 1
    (tmp_path / "go").touch()
    longer = settings.model_copy(update={"classifier_minutes": 60.0})
    run_evaluate(release, cohort, out, longer, seed=7)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    report = read_evaluation_report(out)
    assert [arm.arm for arm in report.arms] == ["real", "real_synthetic", "synthetic"]
    assert all(0 <= arm.val["auc"].value <= 1 for arm in report.arms) and report.curves == {}
    assert len({round(arm.val["auc"].value, 9) for arm in report.arms}) > 1
    assert report.utility.verdict != "not measured"
    assert "by a classifier of the user's own" in seeds_words(report)
    assert any("real_strong are not measured" in note for note in report.notes)
    # Another program is another evaluation.
    path.write_text(shown_program(), encoding="utf-8")
    with pytest.raises(OutputExistsError):
        run_evaluate(release, cohort, out, settings, seed=7)
