"""`evaluation.json`: fidelity, utility and label agreement of a release, as numbers with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from pipeline.append_log import read_entries
from pipeline.config import read_model

REPORT_NAME = "evaluation.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Part):
    """Measured value with its 95 % interval (None if it cannot be computed) and its sample size."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int = Field(default=0, ge=0)


Figure = Estimate | float | None


class Distance(NamedTuple):
    """Feature distance between synthetic and real images, and between real images as its floor.

    Attributes:
        name: name of the distance, for example `kid`.
        value: distance of the synthetic images, with an interval if the distance has one.
        floor: distance of real images, likewise.
    """

    name: str
    value: Figure
    floor: Figure

    @property
    def heading(self) -> str:
        """Name of the distance on a page."""
        known = {"kid": "KID", "fid": "FID"}
        return known.get(self.name, self.name.replace("_", " ").capitalize())


class Fidelity(_Part):
    """Feature distances of one scope (`all` or a class) to the real val split, with the real-vs-real floor.

    The floor compares two real samples at the same sizes, so a value near its floor cannot be improved on.
    Other distances are added to KID and FID as `<name>` and `<name>_floor`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Figure] = Field(init=False)

    scope: str
    kid: Estimate
    kid_floor: Estimate
    fid: float | None
    fid_floor: float | None
    num_synthetic: int
    num_real: int

    @property
    def distances(self) -> tuple[Distance, ...]:
        """All measured distances, KID and FID first."""
        every = {name: getattr(self, name) for name in type(self).model_fields} | (self.model_extra or {})
        return tuple(
            Distance(name, value, every[f"{name}_floor"])
            for name, value in every.items()
            if f"{name}_floor" in every
        )


class ArmResult(_Part):
    """Result of one utility arm: a training set, used with several classifier seeds at equal steps.

    Attributes:
        arm: kind of arm, such as `real_augmented` or `real_synthetic` (`pipeline.evaluate.arms`).
        key: unique name, such as `real_synthetic-0.5`; empty in reports of earlier versions.
        words: the arm in words; empty in reports of earlier versions.
        augmentation: `none`, `light`, or `strong` with its strength; empty in reports of earlier versions.
        ratio: synthetic (or duplicated) images per real image, for arms that have it; else None.
        num_real: number of real images in the training set.
        num_synthetic: number of synthetic images in the training set.
        val: metric name -> Estimate on val over seeds and patients (`auc` first; `balanced_accuracy`,
            `sensitivity_at_specificity`, `ece`, `brier`; with several findings, means over them, and
            `auc of <finding>` of each).
        test: as `val`, on test; empty for arms that were not chosen.
        seeds: classifier seeds.
        val_auc_by_seed: AUC on val, in the order of the seeds.
        test_auc_by_seed: AUC on test, in the order of the seeds.
    """

    arm: str
    key: str = ""
    words: str = ""
    augmentation: str = ""
    ratio: float | None
    num_real: int
    num_synthetic: int
    val: dict[str, Estimate]
    test: dict[str, Estimate]
    seeds: tuple[int, ...]
    val_auc_by_seed: tuple[float, ...]
    test_auc_by_seed: tuple[float, ...]


class UtilityVerdict(_Part):
    """Verdict on the chosen synthetic arm against the best real-only arm (bootstrap over patients, seeds).

    Attributes:
        verdict: `helps` or `harms` if the 95 % interval excludes zero; `possibly ...` if only
            the 90 % interval does; `no measurable effect` if the 95 % interval contains no effect that
            matters; `could not tell` if it contains one.
        chosen_arm: synthetic arm that was compared.
        compared_with: strongest arm without synthetic images.
        difference: difference in test AUC, with its 95 % interval.
        likely: 90 % interval of the difference.
        by_finding: finding -> change in its test AUC against the best real-only arm for it, with a 95 %
            interval that holds for all findings together; empty if classes are asked.
        words: verdict and numbers as text.
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
    by_finding: dict[str, Estimate] = Field(default_factory=dict)
    words: str


class EvaluationReport(_Part):
    """All numbers of an evaluation (private: computed from real patients).

    Attributes:
        extractor_digest: digest of the feature encoder; fidelity figures of different digests are not
            comparable.
        label_agreement: class or finding -> share of its released images that the frozen classifier,
            trained on real scans, reads as intended.
        label_agreement_shuffled: the same with permuted labels (control).
        label_agreement_real: the same on real val scans (accuracy of the classifier).
        test_reads: number of times that the evaluations in this folder read a test split, including this
            evaluation and those that it replaced.
        test_reads_of_others: number of these reads with another cohort.
        curves: name -> {column: values} for the figures (learning curves of the classifiers).
        nearest: class -> a few released sample_ids with the row of the nearest real train scan (private).
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
    """Return the report fields that count the logged reads of the test split.

    Args:
        log: log next to the evaluation.
        cohort: digest of the cohort of the evaluation.
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
