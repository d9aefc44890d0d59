"""`evaluation.json`: fidelity, utility and label agreement of a release, as numbers with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.append_log import read_entries
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
    """Whether the chosen synthetic arm beats the best real-only arm (bootstrap over patients, seeds).

    Attributes:
        verdict: `helps` or `harms` where the simultaneous 95 % interval leaves zero out, `possibly ...` where
            only the 90 % one does, `no measurable effect` where the 95 % one holds no effect that matters,
            `could not tell` where it holds one.
        chosen_arm: the synthetic arm; compared_with: the strongest arm without synthetic images.
        difference: in test AUC, with the simultaneous 95 % interval; likely: the 90 % one.
        words: all this in words.
    """

    verdict: Literal[
        "helps",
        "possibly helps",
        "no measurable effect",
        "could not tell",
        "possibly harms",
        "harms",
        "not measured",
    ]
    chosen_arm: str
    compared_with: str
    difference: Estimate | None
    likely: tuple[float, float] | None = None
    words: str


class EvaluationReport(_Part):
    """All numbers of an evaluation (private: computed from real patients).

    Attributes:
        extractor_digest: digest of the feature encoder; fidelity figures of different digests never compare.
        label_agreement: class -> share of released images that the frozen real-trained classifier reads as
            the intended class; label_agreement_shuffled: the same with labels permuted (the control);
            label_agreement_real: the same classifier on real val scans (how well it reads at all).
        test_reads: how many times a test split was read by the evaluations in this folder, this one and those
            that it replaced among them; test_reads_of_others: of these, while the cohort was another.
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
    test_reads: int = Field(ge=0)
    test_reads_of_others: int = Field(default=0, ge=0)
    curves: dict[str, dict[str, list[float]]]
    nearest: dict[str, list[dict[str, Any]]]
    notes: tuple[str, ...] = ()
    settings: dict[str, Any]


def count_reads(log: Path, cohort: str) -> dict[str, int]:
    """Return the fields of a report that count the logged readings of the test split.

    Args:
        log: the log beside the evaluation.
        cohort: digest of the evaluation's cohort.
    """
    entries = read_entries(log)
    others = sum(entry.get("cohort") != cohort for entry in entries)
    return {"test_reads": len(entries), "test_reads_of_others": others}


def read_evaluation_report(folder: Path) -> EvaluationReport:
    """Read the evaluation's numbers.

    Raises:
        DataError: the file is missing or does not have the expected fields.
    """
    return read_model(
        EvaluationReport, folder / REPORT_NAME, role="evaluation", remedy="Run the evaluation again."
    )
