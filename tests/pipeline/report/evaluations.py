"""A finished evaluation with every arm, written through its real layout."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.evaluation_report import (
    ArmResult,
    Estimate,
    EvaluationReport,
    ExternalArm,
    ExternalTest,
    Fidelity,
    PairedTest,
    UtilityVerdict,
)
from pipeline.config import Settings
from pipeline.evaluate.arm_names import WORDS
from pipeline.records import EvaluationRef, ReleaseRef
from pipeline.stage import open_stage
from pipeline.storage import write_json


def _arm(name: str, ratio: float | None, real: int, drawn: int, auc: float, tested: bool) -> ArmResult:
    def around(value: float, width: float) -> Estimate:
        return Estimate(value=value, low=value - width, high=min(value + width, 1.0), n=390)

    test: dict[str, Any] = {
        "auc": around(auc, 0.018),
        "balanced_accuracy": around(auc - 0.07, 0.03),
        "sensitivity_at_specificity": around(auc - 0.08, 0.05),
        "ece": Estimate(value=0.041),
        "brier": Estimate(value=0.083),
    }
    seeds = (0, 1, 2, 3, 4)
    return ArmResult(
        arm=name,
        key=name if ratio is None else f"{name}-{ratio:g}",
        words=WORDS[name] + (f" (ratio {ratio:g})" if ratio else ""),
        ratio=ratio,
        num_real=real,
        num_synthetic=drawn,
        val={"auc": around(auc + 0.012, 0.012)},
        test=test if tested else {},
        seeds=seeds,
        val_auc_by_seed=tuple(auc + 0.012 + 0.003 * (seed - 2) for seed in seeds),
        test_auc_by_seed=tuple(auc + 0.004 * (seed - 2) for seed in seeds) if tested else (),
    )


def _external(name: str, arms: tuple[ArmResult, ...]) -> ExternalTest:
    """Return the test on another site's cohort: every arm loses .08, and synthetic images help there."""

    def lower(value: Estimate) -> Estimate:
        assert value.low is not None and value.high is not None
        return Estimate(value=value.value - 0.08, low=value.low - 0.09, high=value.high - 0.07, n=912)

    return ExternalTest(
        name=name,
        digest=hashlib.sha256(b"another site").hexdigest(),
        num_scans=912,
        num_patients=640,
        reads=2,
        arms=tuple(
            ExternalArm(
                key=arm.key,
                words=arm.words,
                metrics={"auc": lower(arm.test["auc"])},
                auc_by_seed=tuple(value - 0.08 for value in arm.test_auc_by_seed),
                drop=Estimate(value=0.08, low=0.05, high=0.11, n=390),
            )
            for arm in arms
            if arm.test
        ),
        utility=UtilityVerdict(
            verdict="helps",
            chosen_arm="real_synthetic-0.5",
            compared_with="real",
            difference=Estimate(value=0.02, low=0.01, high=0.03, n=912),
            words=f"Adding synthetic images changed AUC on {name} by +0.0200: helps.",
        ),
        notes=("3 of its patient ids are also ids of the release's cohort",),
    )


def write_evaluation(folder: Path, cohort: Cohort, release: ReleaseRef, settings: Settings) -> None:
    """Write the evaluation of a release: seven arms, five seeds, no measurable effect."""
    classes = cohort.info.classes
    rng = np.random.default_rng(2)
    arms = (
        _arm("synthetic", None, 0, 1200, 0.953, tested=True),
        _arm("real_synthetic", 0.25, 1200, 300, 0.958, tested=False),
        _arm("real_synthetic", 0.5, 1200, 600, 0.962, tested=True),
        _arm("real_synthetic", 1.0, 1200, 1200, 0.957, tested=False),
        _arm("real", None, 1200, 0, 0.958, tested=True),
        _arm("real_augmented", None, 1200, 0, 0.964, tested=True),
        _arm("real_duplicated", 0.5, 1800, 0, 0.960, tested=True),
    )
    report = EvaluationReport(
        cohort_digest=cohort.digest,
        release_digest=release.digest,
        extractor="small_cnn trained on the train split",
        extractor_digest=hashlib.sha256(b"encoder").hexdigest(),
        fidelity=tuple(
            Fidelity(
                scope=scope,
                kid=Estimate(value=0.0213, low=0.0188, high=0.0241, n=500),
                kid_floor=Estimate(value=0.0031, low=0.0012, high=0.0052, n=500),
                fid=18.4,
                fid_floor=4.9,
                num_synthetic=500,
                num_real=500,
            )
            for scope in (*classes, "all")
        ),
        arms=arms,
        external=(_external(f"other {cohort.info.classes[-1]}", arms),),
        utility=UtilityVerdict(
            verdict="no measurable effect",
            chosen_arm="real_synthetic-0.5",
            compared_with="real_augmented",
            difference=Estimate(value=-0.002, low=-0.009, high=0.006, n=390),
            delong=PairedTest(
                difference=Estimate(value=-0.0018, low=-0.0101, high=0.0065, n=390),
                standard_error=0.00423,
                p_value=0.671,
            ),
            words="Adding half a synthetic image to each real one neither helped nor harmed measurably.",
        ),
        label_agreement={
            name: Estimate(value=0.97 - 0.02 * k, low=0.94 - 0.02 * k, high=0.985 - 0.02 * k, n=600)
            for k, name in enumerate(classes)
        },
        label_agreement_real={name: Estimate(value=0.95, low=0.9, high=0.98, n=90) for name in classes},
        label_agreement_shuffled={name: Estimate(value=0.5, low=0.46, high=0.54, n=600) for name in classes},
        test_reads=5,
        curves={"real": {"step": [1.0, 2.0], "loss": [float(value) for value in rng.random(2)]}},
        nearest={},
        notes=("The release holds 600 images a class, so the ratio ends at 1.",),
        settings={"seeds": 5},
    )
    inputs = {"release": release.digest, "cohort": cohort.digest}
    with open_stage(EvaluationRef, folder, inputs=inputs, settings=settings, seed=7) as stage:
        write_json(folder / "evaluation.json", report.model_dump(mode="json"), private=True)
        stage.finish(["evaluation.json"], {"arms": 7})
