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
            `auc of <finding>` of each; on test also `auc in <subgroup>`).
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


class PairedTest(_Part):
    """DeLong's test of two classifiers on the same scans (`pipeline.evaluate.delong`).

    Attributes:
        difference: AUC of the first minus AUC of the second, with its 95 % interval.
        standard_error: standard error of the difference.
        p_value: two-sided; None, as is the interval, if the standard error is 0.
    """

    difference: Estimate
    standard_error: float = Field(ge=0)
    p_value: float | None = Field(ge=0, le=1)


Outcome = Literal[
    "helps",
    "possibly helps",
    "no measurable effect",
    "could not tell",
    "possibly harms",
    "harms",
    "not measured",
]
"""What a comparison of arms on test shows."""


class PartChange(_Part):
    """Change in the test AUC of one finding, or among the scans of one subgroup.

    Attributes:
        compared_with: key of the arm without synthetic images that is best for this part.
        real: AUC of that arm for this part.
        synthetic: AUC of the chosen synthetic arm for it.
        change: change against the best arm without synthetic images, with a 95 % interval that holds for all
            parts together.
    """

    compared_with: str
    real: Estimate
    synthetic: Estimate
    change: Estimate


def auc_of(finding: str) -> str:
    """Return the metric name of the AUC of one finding."""
    return f"auc of {finding}"


def auc_in(group: str) -> str:
    """Return the metric name of the AUC among the scans of one subgroup."""
    return f"auc in {group}"


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
        augmented_alike: difference in test AUC from the real-only arm whose images are augmented as those of
            the chosen arm, for the same steps, with its 95 % interval: what the synthetic images alone
            change. None if there is no such arm.
        by_finding: finding -> its change; empty if classes are asked.
        by_group: subgroup, such as `sex F` -> the change among its test scans.
        delong: DeLong's test of the same two arms, on probabilities averaged over classifier seeds; None with
            more than two classes. The verdict does not depend on it.
        words: verdict and numbers as text.
    """

    verdict: Outcome
    chosen_arm: str
    compared_with: str
    difference: Estimate | None
    likely: tuple[float, float] | None = None
    augmented_alike: Estimate | None = None
    by_finding: dict[str, PartChange] = Field(default_factory=dict)
    by_group: dict[str, PartChange] = Field(default_factory=dict)
    delong: PairedTest | None = None
    words: str


class ExternalArm(_Part):
    """One arm on an external cohort.

    Attributes:
        key: name of the arm, as in `ArmResult`.
        words: the arm in words.
        metrics: metric name -> Estimate over seeds and patients, as in `ArmResult.test`.
        auc_by_seed: AUC of each classifier seed.
        drop: AUC on the internal test split minus AUC here (n: scans of the internal test split); None if the
            internal one was not measured. Patients of both sides are drawn independently and classifier seeds
            together, because the classifiers are the same.
    """

    key: str
    words: str
    metrics: dict[str, Estimate]
    auc_by_seed: tuple[float, ...]
    drop: Estimate | None


class ExternalTest(_Part):
    """Result on the cohort of another site. All its scans count, because no classifier saw one in training.

    Attributes:
        name: name of the manifest of the cohort.
        digest: digest of the cohort.
        num_scans: number of its scans, over all splits.
        num_patients: number of its patients; None if they are not known.
        reads: number of times that the evaluations in this folder compared predictions for this cohort with
            its labels, including this evaluation.
        arms: the arms that are read on the internal test split; empty if nothing was measured.
        utility: the arm that was chosen on val against the strongest real-only arm on this cohort. The
            verdict of the evaluation is the internal one.
        notes: notes for the report.
    """

    name: str
    digest: str
    num_scans: int = Field(ge=0)
    num_patients: int | None = Field(ge=0)
    reads: int = Field(ge=0)
    arms: tuple[ExternalArm, ...]
    utility: UtilityVerdict
    notes: tuple[str, ...] = ()


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
        external: results on the cohorts of other sites, sorted by name.
        asked: what the classifiers were asked for: the class, or the findings.
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
    external: tuple[ExternalTest, ...] = ()
    curves: dict[str, dict[str, list[float]]]
    nearest: dict[str, list[dict[str, Any]]]
    notes: tuple[str, ...] = ()
    asked: Literal["classes", "findings"] = "classes"
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


def count_external_reads(log: Path, cohort: str) -> int:
    """Return the number of logged reads of an external cohort.

    Args:
        log: log of the external reads next to the evaluation.
        cohort: digest of the external cohort.
    """
    return sum(entry.get("cohort") == cohort for entry in read_entries(log))


def read_evaluation_report(folder: Path) -> EvaluationReport:
    """Read the evaluation's numbers.

    Raises:
        DataError: the file is missing or does not have the expected fields.
    """
    return read_model(
        EvaluationReport, folder / REPORT_NAME, role="evaluation", remedy="Run the evaluation again."
    )


def external_verdicts(folder: Path) -> dict[str, Any]:
    """Return the verdicts of the external tests of an evaluation, as JSON values; empty without any."""
    tests = read_evaluation_report(folder).external
    verdicts = [{"name": test.name, "digest": test.digest, "verdict": test.utility.verdict} for test in tests]
    return {"external": verdicts} if verdicts else {}
