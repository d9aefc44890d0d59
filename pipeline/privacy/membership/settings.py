"""Settings of the membership inference in an audit."""

from __future__ import annotations

from pydantic import Field, field_validator

from pipeline.config import Settings


class MembershipSettings(Settings):
    """How hard it is tried to tell who was trained on, and when that counts as told."""

    enabled: bool = Field(True, description="Attack the release, and the checkpoint where one is named.")
    sigmas: tuple[float, ...] = Field(
        (0.1, 0.3, 0.8), min_length=1, description="Noise levels at which the checkpoint is asked."
    )
    known_scans: int = Field(
        500, ge=20, description="Known members, and known non-members, that the attack may learn from."
    )
    batch_size: int = Field(64, ge=1, description="Scans at a time.")
    permutations: int = Field(20_000, ge=1_000, description="Coin flips drawn behind each p-value.")
    resamples: int = Field(1_000, ge=100, description="Bootstrap draws behind each interval.")
    min_patients: int = Field(
        40, ge=2, description="Audit patients on either side below which nothing is concluded."
    )

    @field_validator("sigmas")
    @classmethod
    def _positive(cls, sigmas: tuple[float, ...]) -> tuple[float, ...]:
        if min(sigmas) <= 0:
            raise ValueError("sigmas must be positive")
        return sigmas
