"""Settings of the privacy gate; recall and false rejects were measured with the defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

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
    tuning_share: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Share of the budget used on the tuning half, so that the fresh half stays within it.",
    )
    search_size: int = Field(
        32, ge=16, le=256, description="Longest side in pixels at which images are compared (area-averaged)."
    )
    flat_field_sigma: float = Field(
        4.0, gt=0, le=64, description="Blur subtracted before comparing (sigma in pixels of the search size)."
    )
    max_shift: int = Field(3, ge=0, le=6, description="Largest shift tried, in pixels of the search size.")
    scales: tuple[float, ...] = Field(
        (0.8, 0.87, 0.93, 1.0, 1.07, 1.15, 1.25), min_length=1, description="Zoom factors tried."
    )
    rotations: tuple[float, ...] = Field(
        (-15.0, -7.5, 0.0, 7.5, 15.0), min_length=1, description="Rotations tried (degrees)."
    )
    coarse_scales: tuple[float, ...] = Field(
        (0.85, 1.0, 1.18), min_length=1, description="Zoom factors tried on all pairs, at half resolution."
    )
    coarse_rotations: tuple[float, ...] = Field(
        (-10.0, 0.0, 10.0), min_length=1, description="Rotations tried on all pairs (degrees)."
    )
    texture_quantile: float = Field(
        0.75,
        ge=0,
        le=1,
        description="Fine detail above this quantile of the real images counts as noise that hides a copy.",
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
    blend_shortlist: int = Field(
        32, ge=2, le=1_024, description="Real images tried as the first of the two sources of a blend."
    )
    component_noise: float = Field(
        0.3,
        gt=0,
        le=10,
        description="Noise, in a range of 2, below which structure counts as generated anew by a model.",
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
    embedding_learning_rate: float = Field(3e-3, gt=0, description="Peak learning rate of the embedding.")
    embedding_temperature: float = Field(0.1, gt=0, description="Temperature of the contrastive loss.")
    embedding_seed: int = Field(0, ge=0, description="Seed of the embedding, separate from the run's seed.")
    hash_rules: bool = Field(True, description="Also reject exact and perceptual hash matches with train.")
    hash_distance: int = Field(
        8, ge=0, le=64, description="Largest number of bits, of 240, in which perceptual hashes may differ."
    )
    duplicate_similarity: float = Field(
        0.995, gt=0, le=1, description="Smallest correlation at which two candidates count as duplicates."
    )
    control_scans: int = Field(
        1_500,
        ge=0,
        description="Train scans used, with all holdout scans, to measure how far real images stand out.",
    )
    depths: tuple[int, ...] = Field(
        (25, 50, 100, 200), min_length=1, description="Numbers of most copy-like candidates that are tested."
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

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("scales", "coarse_scales"):
            if min(getattr(self, name)) <= 0.5 or max(getattr(self, name)) >= 2:
                raise ValueError(f"{name} must lie between 0.5 and 2")
        if min(self.depths) < 1 or list(self.depths) != sorted(set(self.depths)):
            raise ValueError("depths must be positive and ascending")
        return self

    def content_settings(self) -> AuditSettings:
        """Return these settings without the paths of earlier releases, which are inputs known by digest."""
        return self.model_copy(update={"earlier_releases": ()})

    @property
    def half_seconds(self) -> float | None:
        """Time limit in seconds of the embedding, and of the attack on the checkpoint; None is no limit."""
        return None if self.max_minutes is None else 30.0 * self.max_minutes

    def embedding_key(self) -> dict[str, object]:
        """Return the settings that determine the embedding of a cohort."""
        names = ("search_size", "flat_field_sigma", "embedding_steps", "embedding_batch", "max_minutes")
        more = ("embedding_learning_rate", "embedding_temperature", "embedding_seed")
        return {name: getattr(self, name) for name in (*names, *more)}
