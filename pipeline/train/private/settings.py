"""Settings of differentially private training."""

from __future__ import annotations

from pydantic import Field, model_validator

from pipeline.config import Settings


class PrivateSettings(Settings):
    """Settings of the guarantee, which needs the extra `dp` (Opacus)."""

    epsilon: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="privacy budget per patient (per image if patients are unknown), by Renyi accounting; "
        "None trains without a guarantee",
    )
    delta: float | None = Field(
        None, gt=0, lt=1, description="delta of the guarantee; None uses 1 / (10 x patients of train)"
    )
    max_grad_norm: float = Field(
        1.0, gt=0, le=1e6, description="norm to which the gradient of each patient is clipped in a step"
    )

    @model_validator(mode="after")
    def _nothing_is_set_in_vain(self) -> PrivateSettings:
        bound = type(self).model_fields["max_grad_norm"].default
        if self.epsilon is None and (self.delta is not None or self.max_grad_norm != bound):
            raise ValueError("dp.delta and dp.max_grad_norm do nothing without dp.epsilon: set it")
        return self
