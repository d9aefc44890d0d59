"""Settings of the membership inference in an audit."""

from __future__ import annotations

from pydantic import Field, field_validator

from pipeline.config import Settings


class MembershipSettings(Settings):
    """Settings of the membership inference attacks, and when their results are conclusive."""

    enabled: bool = Field(True, description="Attack the release, and the checkpoint if one is given.")
    sigmas: tuple[float, ...] = Field(
        (0.1, 0.3, 0.8), min_length=1, description="Noise levels at which the checkpoint is attacked."
    )
    known_scans: int = Field(
        500, ge=20, description="Largest number of known members, and of known non-members, to learn from."
    )
    batch_size: int = Field(64, ge=1, description="Scans per batch.")
    permutations: int = Field(20_000, ge=1_000, description="Permutations of the coin flips per p-value.")
    resamples: int = Field(1_000, ge=100, description="Bootstrap draws per interval.")
    min_patients: int = Field(
        40, ge=2, description="Least number of audit patients on each side for a conclusion."
    )

    @field_validator("sigmas")
    @classmethod
    def _positive(cls, sigmas: tuple[float, ...]) -> tuple[float, ...]:
        if min(sigmas) <= 0:
            raise ValueError("sigmas must be positive")
        return sigmas
