"""Settings of ingest: image size, stored depth, shares of the split, limits."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.config import Settings


class IngestSettings(Settings):
    """Settings of how scans become a cohort. The meaning of the data is described in the manifest."""

    image_size: int = Field(32, ge=8, le=1024, description="Side of the stored square image in pixels.")
    bit_depth: Literal[8, 16] = Field(8, description="Bits per stored pixel.")
    intensity: Literal["auto", "robust"] = Field(
        "auto",
        description="Black and white levels: `auto` uses those of the format if it defines them (8-bit "
        "images) and percentiles otherwise; `robust` always uses percentiles.",
    )
    percentiles: tuple[float, float] = Field(
        (0.5, 99.5), description="Percentiles that map to black and white."
    )
    split_seed: int = Field(0, ge=0, lt=2**63, description="Seed of the split, separate from the run seed.")
    val_share: float = Field(0.1, ge=0, lt=1, description="Share of the pool's patients for validation.")
    test_share: float = Field(
        0.15, ge=0, lt=1, description="Share for test, if the manifest keeps no published test part."
    )
    holdout_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share for the privacy holdout, in addition to the audit patients left out.",
    )
    audit_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of audit patients: a coin flip assigns each to train or the holdout.",
    )
    stratify_tolerance: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Largest relative deviation of the patients of a class or finding in a split from the "
        "split's share (one patient is always allowed); 1 only ensures that no split lacks a class.",
    )
    strict: bool = Field(
        False,
        description="Refuse data whose published split shares patients or images between its parts, or "
        "whose patient ids are similar but not equal, such as 00007 and 7.",
    )
    max_reject_share: float = Field(0.5, ge=0, le=1, description="Largest share of refused scans.")
    workers: int = Field(
        0, ge=0, le=1024, description="Number of processes; 0 is one per core. It does not change the result."
    )
    chunk_scans: int = Field(
        128, ge=1, le=65536, description="Scans per unit of work; an interrupted run keeps finished units."
    )
    scan_seconds: float = Field(
        60.0, gt=0, description="Time limit of one file in seconds; a file that takes longer is refused."
    )
    near_duplicates: Literal["off", "flag", "join"] = Field(
        "join",
        description="Near-duplicates (re-encoded, resized, brightened or slightly cropped copies): `off` "
        "does not search for them, `flag` flags and reports them, `join` also keeps them on one side of the "
        "split.",
    )
    burned_in_text: Literal["off", "flag", "mask", "quarantine"] = Field(
        "flag",
        description="Text near the border: `off` does not search for it, `flag` flags the scan, `mask` "
        "paints over the text before resizing, `quarantine` refuses the scan.",
    )
    unexpected: Literal["flag", "quarantine"] = Field(
        "flag",
        description="Scans with a modality or view that the manifest's `expect` does not name: `flag` flags, "
        "`quarantine` refuses them.",
    )
    phantom_patients: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Patients of a phantom source, instead of the manifest's number.",
    )
    previous: Path | None = Field(
        None,
        description="Earlier cohort of the same dataset to continue: its patients keep their split, and "
        "unchanged files are not read again. A cohort at --out that --force replaces is continued without "
        "this setting.",
    )
    private_map: Path | None = Field(
        None,
        description="Path of the table that resolves hashed ids to file names and patient ids. It must be "
        "outside the cohort and gets mode 0600. It is written only if this is set.",
    )

    @model_validator(mode="after")
    def _shares_leave_train(self) -> Self:
        total = self.val_share + self.test_share + self.holdout_share + self.audit_share
        if total > 0.9:
            raise ValueError(
                f"val, test, holdout and audit shares leave too little for train (sum {total:g})"
            )
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError("percentiles must be two ascending numbers in 0..100")
        return self

    def content_settings(self) -> IngestSettings:
        """Return the settings with all that do not affect the cohort's content set to their defaults."""
        return self.model_copy(
            update={"workers": 0, "chunk_scans": 128, "scan_seconds": 60.0, "private_map": None}
        )
