"""Settings of a study."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.config import Settings
from pipeline.evaluate.arm_names import REAL_ARMS, SYNTHETIC_ARMS, RealArm, SyntheticArm

Regime = Literal["shared", "self", "imbalanced"]
Size = Annotated[int, Field(ge=2, le=1_000_000)] | Literal["all"]


class StudySettings(Settings):
    """Settings that determine which experiments a study makes; the classifiers are those of `evaluate`."""

    regimes: tuple[Regime, ...] = Field(
        ("shared", "self"),
        min_length=1,
        description="shared: a site with few scans uses images of a generator that was trained elsewhere; "
        "self: the generator sees only the site's scans; imbalanced: as self, with few scans of one class "
        "beside all of the others.",
    )
    sizes: tuple[Size, ...] = Field(
        (20, 50, 100, 200), min_length=1, description="Train scans per class of a site, or all."
    )
    draws: int = Field(5, ge=1, le=100, description="Number of random sites per regime and size.")
    elsewhere: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Share of the train patients whom the shared generator is trained on; sites are drawn "
        "from the others.",
    )
    rare: str | None = Field(
        None,
        description="Rare class of the imbalanced regime; none is the class with the fewest train scans.",
    )
    arms: tuple[RealArm | SyntheticArm, ...] = Field(
        (*REAL_ARMS, *SYNTHETIC_ARMS),  # type: ignore[arg-type]
        min_length=1,
        description="Arms to train, in place of evaluate.arms.",
    )
    max_hours: float | None = Field(
        None,
        gt=0,
        le=10_000,
        description="Time after which no further site is begun; what is finished is reported, and the same "
        "command goes on.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("regimes", "sizes"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"{name} must not name a value twice")
        return self
