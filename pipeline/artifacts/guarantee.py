"""What a differentially private training guarantees, as checkpoint, privacy report and release state it."""

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
    """Raise UsageError, naming the extra to install, where a private training has no library to run on."""
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
    """An (epsilon, delta) guarantee of the weights: whoever has them learns little more of any one unit.

    Attributes:
        epsilon: spent, by `accountant` (Renyi differential privacy, arXiv 1702.07476); delta: beside it.
        prv_epsilon: of the same training by the PRV accountant (arXiv 2106.02848), which is tighter.
        unit: what is protected: all scans of a patient, or a single image where patients are unknown.
        num_units: patients (or images) of the train split.
        noise_multiplier: standard deviation of the noise over the norm bound; max_grad_norm: that bound.
        sample_rate: chance of each unit to be part of a step (Poisson sampling); num_steps: steps done.
        adjacency: neighbouring train sets differ by one unit being there or not.
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
        """One sentence that says what is guaranteed, of what, and by which accountant."""
        return (
            f"differentially private training: epsilon {self.epsilon:.2f} (RDP accountant; "
            f"{self.prv_epsilon:.2f} by PRV), delta {self.delta:.1e}, for each {self.unit} of the "
            f"{self.num_units} in train being there or not"
        )
