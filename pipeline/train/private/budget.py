"""Privacy budget of a training: the noise that it needs, and the budget that was spent."""

from __future__ import annotations

import logging
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.guarantee import DifferentialPrivacy, require_opacus
from pipeline.errors import DataError, UsageError
from pipeline.storage import make_private_directory, write_text
from pipeline.train.parts import ScheduleSettings
from pipeline.train.private.patients import train_patients
from pipeline.train.private.settings import PrivateSettings
from pipeline.train.state import FOLDER_NAME

if TYPE_CHECKING:
    from opacus.accountants import IAccountant

logger = logging.getLogger(__name__)

SECRET_NAME = "noise.key"
SECRET_BYTES = 16


@dataclass(frozen=True)
class PrivacyBudget:
    """Sampling of scans and noise in a private training.

    Attributes:
        noise_multiplier: standard deviation of the noise divided by `max_grad_norm`.
        sample_rate: probability of each patient to be part of a step.
        max_grad_norm: bound of the norm of each patient's gradient.
        delta: delta of the guarantee.
        unit: `patient` or `image`.
        num_units: number of units in train.
        secret: secret seed of the noise and of the patients of each step.
    """

    noise_multiplier: float
    sample_rate: float
    max_grad_norm: float
    delta: float
    unit: Literal["patient", "image"]
    num_units: int
    secret: int

    def spent(self, num_steps: int) -> DifferentialPrivacy:
        """Return the guarantee after `num_steps` steps."""
        from opacus.accountants import PRVAccountant

        return DifferentialPrivacy(
            epsilon=self.spent_by_rdp(num_steps),
            delta=self.delta,
            prv_epsilon=self._epsilon(PRVAccountant(), num_steps),
            unit=self.unit,
            num_units=self.num_units,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            sample_rate=self.sample_rate,
            num_steps=num_steps,
        )

    def spent_by_rdp(self, num_steps: int) -> float:
        """Return the epsilon after `num_steps` steps, by Renyi accounting."""
        from opacus.accountants import RDPAccountant

        return self._epsilon(RDPAccountant(), num_steps)

    def _epsilon(self, accountant: IAccountant, num_steps: int) -> float:
        accountant.history = [(self.noise_multiplier, self.sample_rate, num_steps)]
        with _opacus_silent():
            return float(accountant.get_epsilon(delta=self.delta))


def make_budget(
    cohort: Cohort, folder: Path, asked: PrivateSettings, schedule: ScheduleSettings
) -> PrivacyBudget | None:
    """Return the budget of a private training, or None if none is requested.

    Args:
        cohort: cohort to train on.
        folder: checkpoint directory, where the secret is stored until the training is finished.
        asked: requested guarantee.
        schedule: number of steps, and of patients per step.

    Raises:
        UsageError: Opacus is not installed, or no amount of noise can keep the budget.
        DataError: a step would need more patients than the cohort has.
    """
    if asked.epsilon is None:
        return None
    require_opacus(asked.epsilon)
    from opacus.accountants.utils import get_noise_multiplier

    count = len(train_patients(cohort))
    if schedule.batch_size > count:
        raise DataError(
            f"a step would see {schedule.batch_size} patients of {count}",
            field="train.batch_size",
            value=schedule.batch_size,
            remedy=f"Set train.batch_size to {count} or less.",
        )
    rate, delta = schedule.batch_size / count, _delta(asked, count)
    try:
        with _opacus_silent():
            noise = get_noise_multiplier(
                target_epsilon=asked.epsilon,
                target_delta=delta,
                sample_rate=rate,
                steps=schedule.num_steps,
                accountant="rdp",
            )
    except ValueError as error:
        raise UsageError(
            f"no amount of noise keeps {schedule.num_steps} steps within epsilon {asked.epsilon} at delta "
            f"{delta:.1e}",
            field="train.dp.epsilon",
            value=asked.epsilon,
            remedy="Raise train.dp.epsilon or train.dp.delta.",
        ) from error
    logger.info(
        "private training: noise multiplier %.2f, %.1f of %d patients a step expected",
        noise,
        schedule.batch_size,
        count,
    )
    return PrivacyBudget(
        noise_multiplier=float(noise),
        sample_rate=rate,
        max_grad_norm=asked.max_grad_norm,
        delta=delta,
        unit="patient" if cohort.info.has_patient_ids else "image",
        num_units=count,
        secret=_secret(folder),
    )


def forget_secret(folder: Path) -> None:
    """Delete the secret of a finished training, because the noise could be removed with it."""
    (folder / FOLDER_NAME / SECRET_NAME).unlink(missing_ok=True)


def _delta(asked: PrivateSettings, count: int) -> float:
    return asked.delta if asked.delta is not None else 1.0 / (10.0 * count)


def _secret(folder: Path) -> int:
    """Return the secret of an unfinished training, or draw one.

    It is not the seed of the run, because a release publishes that seed.
    """
    path = make_private_directory(folder / FOLDER_NAME) / SECRET_NAME
    if not path.is_file():
        write_text(path, secrets.token_hex(SECRET_BYTES), private=True)
    try:
        return int(path.read_text(encoding="ascii"), 16)
    except ValueError as error:
        raise DataError(
            "the secret of this private training is not readable",
            field="checkpoint",
            remedy="Train again with --force.",
        ) from error


@contextmanager
def _opacus_silent() -> Iterator[None]:
    """Silence advice on the orders of Renyi divergences, which changes no result."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
