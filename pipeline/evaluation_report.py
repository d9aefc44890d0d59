"""`evaluation.json`: fidelity, utility and label agreement of a release, as numbers with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.config import read_model

REPORT_NAME = "evaluation.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Part):
    """A measured value with its 95 % interval (None where it cannot be computed) and sample size."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int = Field(default=0, ge=0)


class Fidelity(_Part):
    """Feature distances of one scope (`all` or a class) to the real val split, with the real-vs-real floor.

    The floor compares two real samples at the same sizes, so a value near its floor cannot be improved on.
    """

    scope: str
    kid: Estimate
    kid_floor: Estimate
    fid: float | None
    fid_floor: float | None
    num_synthetic: int
    num_real: int


class ArmResult(_Part):
    """One utility arm: a training set recipe, trained over several classifier seeds at equal steps.

    Attributes:
        arm: `real`, `real_augmented`, `real_duplicated`, `real_synthetic`, `synthetic`.
        ratio: synthetic images per real image (for `real_synthetic` and `real_duplicated`), else None.
        num_real, num_synthetic: images in the training set.
        val, test: metric name -> Estimate over seeds and patients (`auc` first; `balanced_accuracy`,
            `sensitivity_at_specificity`, `ece`, `brier`). `test` is empty for arms that were not chosen.
        seeds: classifier seeds; val_auc_by_seed, test_auc_by_seed: in that order.
    """

    arm: str
    ratio: float | None
    num_real: int
    num_synthetic: int
    val: dict[str, Estimate]
    test: dict[str, Estimate]
    seeds: tuple[int, ...]
    val_auc_by_seed: tuple[float, ...]
    test_auc_by_seed: tuple[float, ...]


class UtilityVerdict(_Part):
    """Whether the chosen synthetic arm beats the best real-only arm (bootstrap over patients, seeds)."""

    verdict: Literal["helps", "no measurable effect", "harms", "not measured"]
    chosen_arm: str
    compared_with: str
    difference: Estimate | None
    words: str


class EvaluationReport(_Part):
    """All numbers of an evaluation (private: computed from real patients).

    Attributes:
        extractor_digest: digest of the feature encoder; fidelity figures of different digests never compare.
        label_agreement: class -> share of released images that the frozen real-trained classifier reads as
            the intended class; label_agreement_shuffled: the same with labels permuted (the control);
            label_agreement_real: the same classifier on real val scans (how well it reads at all).
        test_reads: how many times the test split was read in this evaluation.
        curves: name -> {column: values} for the figures (classifier learning curves).
        nearest: per class, a few released sample_ids with the row of the nearest real train scan (private).
    """

    format_version: Literal[1] = 1
    cohort_digest: str
    release_digest: str
    extractor: str
    extractor_digest: str
    fidelity: tuple[Fidelity, ...]
    arms: tuple[ArmResult, ...]
    utility: UtilityVerdict
    label_agreement: dict[str, Estimate]
    label_agreement_shuffled: dict[str, Estimate]
    label_agreement_real: dict[str, Estimate] = Field(default_factory=dict)
    test_reads: int
    curves: dict[str, dict[str, list[float]]]
    nearest: dict[str, list[dict[str, Any]]]
    notes: tuple[str, ...] = ()
    settings: dict[str, Any]


def read_evaluation_report(folder: Path) -> EvaluationReport:
    """Read the evaluation's numbers.

    Raises:
        DataError: the file is missing or does not have the expected fields.
    """
    return read_model(
        EvaluationReport, folder / REPORT_NAME, role="evaluation", remedy="Run the evaluation again."
    )
