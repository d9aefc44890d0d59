"""Guarantee of a differentially private training, as stated in checkpoint, privacy report and release."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import UsageError

OUTSIDE = (
    "the choice of the recipe, if it was made by looking at these scans",
    "the classes, their number of scans, and how often conditions occur together",
    "losses and timings in the checkpoint directory, and everything the audit and the evaluation measured",
    "which of the drawn images the gate accepted",
    "weaknesses of floating-point noise and of a pseudo-random generator, which is not a cryptographic one",
)


def require_opacus(epsilon: float) -> None:
    """Raise UsageError with the extra to install if Opacus is missing."""
    try:
        import opacus  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(
            "differentially private training needs Opacus",
            field="train.dp.epsilon",
            value=epsilon,
            remedy="Install the extra: pip install 'phosphor-xray[dp]'.",
        ) from error


class DifferentialPrivacy(BaseModel):
    """(epsilon, delta) guarantee of the weights, which limits what they reveal about any one unit.

    Attributes:
        epsilon: privacy budget spent, by `accountant` (Renyi differential privacy, arXiv 1702.07476).
        delta: delta of the guarantee.
        accountant: accountant of `epsilon`.
        prv_epsilon: epsilon of the same training by the PRV accountant (arXiv 2106.02848), which is tighter.
        unit: unit of protection: all scans of a patient, or a single image if patients are unknown.
        num_units: number of patients (or images) in the train split.
        noise_multiplier: standard deviation of the noise divided by `max_grad_norm`.
        max_grad_norm: bound of the gradient norm per unit.
        sample_rate: probability of each unit to be part of a step (Poisson sampling).
        num_steps: number of steps.
        adjacency: relation of neighbouring train sets, which differ by the presence of one unit.
        outside: what the guarantee does not cover.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epsilon: float = Field(ge=0)
    delta: float = Field(gt=0, lt=1)
    accountant: Literal["rdp"] = "rdp"
    prv_epsilon: float = Field(ge=0)
    unit: Literal["patient", "image"]
    num_units: int = Field(ge=1)
    noise_multiplier: float = Field(gt=0)
    max_grad_norm: float = Field(gt=0)
    sample_rate: float = Field(gt=0, le=1)
    num_steps: int = Field(ge=1)
    adjacency: Literal["add_or_remove_one"] = "add_or_remove_one"
    outside: tuple[str, ...] = OUTSIDE

    @property
    def words(self) -> str:
        """Guarantee in one sentence, with its unit and accountant."""
        return (
            f"differentially private training: epsilon {self.epsilon:.2f} (RDP accountant; "
            f"{self.prv_epsilon:.2f} by PRV), delta {self.delta:.1e}, for each {self.unit} of the "
            f"{self.num_units} in train being there or not"
        )
