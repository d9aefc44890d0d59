"""Settings of the privacy gate; recall and false rejects were measured with the defaults.

Values that decide how well copies are found, and that nobody has a reason to weaken, are constants beside
the code that uses them.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from pipeline.config import Settings
from pipeline.privacy.membership.settings import MembershipSettings


class AuditSettings(Settings):
    """Settings of the search for copies, the rejection rules, the tests and the verdict."""

    false_reject_budget: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="Largest share of fresh real holdout scans that all rejection rules together may reject.",
    )
    search_size: int = Field(
        32, ge=16, le=256, description="Longest side in pixels at which images are compared (area-averaged)."
    )
    max_shift: int = Field(3, ge=0, le=6, description="Largest shift tried, in pixels of the search size.")
    rotations: tuple[float, ...] = Field(
        (-15.0, -7.5, 0.0, 7.5, 15.0), min_length=1, description="Rotations tried (degrees)."
    )
    shortlist: int = Field(
        4, ge=1, le=64, description="Real images per fold that the coarse search passes to the exact search."
    )
    exhaustive_limit: int = Field(
        1_000_000,
        ge=0,
        description="Up to this number of real images, every candidate is compared with all of them in every "
        "view. Above it, the pixel views compare only with the images that two small feature vectors rank "
        "first.",
    )
    index_shortlist: int = Field(
        64, ge=4, le=4_096, description="Real images per fold that each of these feature vectors ranks first."
    )
    embedding_steps: int = Field(300, ge=1, description="Optimiser steps of the copy-detection embedding.")
    max_minutes: float | None = Field(
        None,
        gt=0,
        le=100_000,
        description="Time limit for training the copy-detection embedding and for attacking the checkpoint, "
        "half of it each. It reduces the steps and the known scans that the attack learns from. The search "
        "for copies is never shortened.",
    )
    embedding_batch: int = Field(256, ge=2, description="Images per step of the embedding.")
    hash_rules: bool = Field(True, description="Also reject exact and perceptual hash matches with train.")
    control_scans: int = Field(
        1_500,
        ge=0,
        description="Train scans used, with all holdout scans, to measure how far real images stand out.",
    )
    significance: float = Field(0.01, gt=0, lt=0.5, description="Family-wise error of the dataset tests.")
    null_draws: int = Field(20_000, ge=1_000, description="Random draws of the null distribution.")
    planted_share: float = Field(
        0.02, gt=0, lt=1, description="Share of planted copies whose detection defines the power."
    )
    planted_per_kind: int = Field(
        24, ge=2, le=1_000, description="Copies planted per kind to measure recall."
    )
    power_draws: int = Field(100, ge=20, description="Simulated audits to estimate the power.")
    min_power: float = Field(0.8, gt=0, le=1, description="Least power for PASS.")
    min_planted_recall: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Recall of planted plain copies below which the gate counts as too weak.",
    )
    min_holdout_patients: int = Field(50, ge=2, description="Least number of holdout patients for PASS.")
    membership: MembershipSettings = Field(
        default_factory=MembershipSettings, description="Membership inference on the audit patients."
    )
    earlier_releases: tuple[Path, ...] = Field(
        (),
        description="Earlier release directories of the same patients that the recipient may also have. "
        "Membership inference attacks them together with the audited images.",
    )
    num_threads: int = Field(0, ge=0, description="Number of torch threads; 0 leaves the number unchanged.")

    def content_settings(self) -> AuditSettings:
        """Return these settings without the paths of earlier releases, which are inputs known by digest."""
        return self.model_copy(update={"earlier_releases": ()})

    @property
    def flat_field_sigma(self) -> float:
        """Standard deviation of the blur that is subtracted before comparing, in pixels."""
        return self.search_size / 8

    @property
    def coarse_rotations(self) -> tuple[float, ...]:
        """Rotations in degrees that are tried on all pairs: none, and two thirds of the largest one."""
        largest = max(abs(angle) for angle in self.rotations) * 2 / 3
        return tuple(sorted({-largest, 0.0, largest}))

    @property
    def half_seconds(self) -> float | None:
        """Time limit in seconds of the embedding, and of the attack on the checkpoint; None is no limit."""
        return None if self.max_minutes is None else 30.0 * self.max_minutes
