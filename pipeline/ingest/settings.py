"""Settings of ingest: image size, stored depth, shares of the split, limits."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.config import Settings


class IngestSettings(Settings):
    """How scans become a cohort. What the data mean stands in the manifest, not here."""

    image_size: int = Field(32, ge=8, le=1024, description="Side of the stored square image in pixels.")
    bit_depth: Literal[8, 16] = Field(8, description="Bits of a stored pixel.")
    intensity: Literal["auto", "robust"] = Field(
        "auto",
        description="Black and white: `auto` takes the format's own where it has them (8-bit images), else "
        "percentiles; `robust` takes percentiles always.",
    )
    percentiles: tuple[float, float] = Field(
        (0.5, 99.5), description="Percentiles that become black and white."
    )
    split_seed: int = Field(0, ge=0, lt=2**63, description="Seed of the split, apart from the run seed.")
    val_share: float = Field(0.1, ge=0, lt=1, description="Share of the pool's patients for validation.")
    test_share: float = Field(
        0.15, ge=0, lt=1, description="Share for test, where the manifest keeps no published test part."
    )
    holdout_share: float = Field(
        0.1, ge=0, lt=1, description="Share for the privacy holdout, beside the audit patients left out."
    )
    audit_share: float = Field(
        0.1, ge=0, lt=1, description="Share that a coin flip sends into train (in) or into the holdout (out)."
    )
    stratify_tolerance: float = Field(
        0.1,
        ge=0,
        le=1,
        description="How far the number of patients of a class or finding in a split may lie from its share, "
        "as a part of that share (always by one patient); 1 only keeps any split from lacking a class.",
    )
    strict: bool = Field(
        False,
        description="Refuse data whose published split shares patients or images between its parts, or "
        "whose patient ids look alike without being equal, such as 00007 and 7.",
    )
    max_reject_share: float = Field(0.5, ge=0, le=1, description="Largest share of refused scans.")
    workers: int = Field(
        0, ge=0, le=1024, description="Processes; 0 takes one a core. Never changes the result."
    )
    chunk_scans: int = Field(
        128, ge=1, le=65536, description="Scans a unit of work, kept when a run is killed."
    )
    scan_seconds: float = Field(
        60.0, gt=0, description="Longest time that one file may take before it is refused as stalling."
    )
    near_duplicates: Literal["off", "flag", "join"] = Field(
        "join",
        description="Near-duplicates (re-encoded, resized, brightened, slightly cropped copies): not looked "
        "for, flagged and told, or also kept on one side of the split.",
    )
    burned_in_text: Literal["off", "flag", "mask", "quarantine"] = Field(
        "flag",
        description="Text near the border: not looked for, flagged, painted over before resizing, or the "
        "scan is refused.",
    )
    unexpected: Literal["flag", "quarantine"] = Field(
        "flag",
        description="A modality or view that the manifest's `expect` does not name: flagged, or the scan is "
        "refused.",
    )
    phantom_patients: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Patients of a phantom source, instead of the manifest's number.",
    )
    previous: Path | None = Field(
        None,
        description="An earlier cohort of the same dataset to continue: its patients keep their side of the "
        "split, and files that have not changed are not read again. A cohort at --out that --force replaces "
        "is continued without being named.",
    )
    private_map: Path | None = Field(
        None,
        description="Where to write the table that resolves hashed ids to file names and patient ids; it "
        "must lie outside the cohort and gets mode 0600. Not written unless asked for.",
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
            raise ValueError("percentiles must be two rising numbers in 0..100")
        return self

    def content_settings(self) -> IngestSettings:
        """Return the settings with everything at its default that does not change the cohort's content."""
        return self.model_copy(
            update={"workers": 0, "chunk_scans": 128, "scan_seconds": 60.0, "private_map": None}
        )
