"""What the Prefect interface shows of a run says no more than its tests could see."""

from __future__ import annotations

from pathlib import Path

from flows.artifacts import metric_rows, verdict_markdown
from pipeline.artifacts.evaluation_report import Estimate, ExternalArm, ExternalTest, Fidelity, UtilityVerdict
from pipeline.records import Verdict
from tests.pipeline.wording.test_evaluation import agreeing, around
from tests.pipeline.wording.test_privacy import PHANTOM, made
from tests.pipeline.wording.test_privacy_advice import audit


def test_the_verdict_names_signs_and_counts_the_tests_that_could_not_tell() -> None:
    report = audit(Verdict.INCONCLUSIVE, tests=(made(0.0), made(0.0)), membership=(PHANTOM,))
    shown = verdict_markdown(report, "research", Path("report.html"))
    assert "- Of 2 tests on the images, none failed; 2 could not tell (each by itself" in shown
    assert "- The released images show a sign of revealing who was in the training data" in shown
    assert "passed" not in shown and "found nothing" not in shown


def test_the_metrics_hold_the_intervals_and_what_they_tell() -> None:
    report = agreeing({}, {}).model_copy(
        update={
            "external": (
                ExternalTest(
                    name="elsewhere",
                    digest="e" * 64,
                    num_scans=80,
                    num_patients=40,
                    reads=1,
                    arms=(
                        ExternalArm(
                            key="real",
                            words="real images",
                            metrics={"auc": Estimate(value=0.85, low=0.8, high=0.9, n=80)},
                            auc_by_seed=(0.85,),
                            drop=Estimate(value=0.05, low=0.01, high=0.09, n=90),
                        ),
                    ),
                    utility=UtilityVerdict(
                        verdict="helps",
                        chosen_arm="synthetic",
                        compared_with="real",
                        difference=None,
                        words="",
                    ),
                ),
            ),
            "utility": UtilityVerdict(
                verdict="possibly harms",
                chosen_arm="synthetic",
                compared_with="real",
                difference=Estimate(value=-0.104, low=-0.243, high=0.0007, n=90),
                likely=(-0.22, -0.01),
                words="",
            ),
            "fidelity": (
                Fidelity(
                    scope="all",
                    kid=around(4.32, 3.37),
                    kid_floor=around(0.35, 0.85),
                    fid=None,
                    fid_floor=None,
                    num_synthetic=145,
                    num_real=81,
                ),
            ),
        }
    )
    rows = {row["measure"]: row for row in metric_rows(report)}
    assert (rows["utility verdict on elsewhere"]["value"], rows["AUC on elsewhere"]["low"]) == ("helps", 0.8)
    assert (rows["AUC drop to elsewhere"]["scope"], rows["AUC drop to elsewhere"]["value"]) == ("real", 0.05)
    assert rows["utility verdict"]["value"] == "possibly harms"
    change = rows["change in test AUC"]
    assert (change["scope"], change["low"], change["high"]) == ("synthetic against real", -0.243, 0.0007)
    assert (rows["KID floor (real to real)"]["low"], rows["KID floor (real to real)"]["high"]) == (-0.5, 1.2)
    assert rows["KID against its floor"]["value"].startswith("farther from real scans than real scans are")
