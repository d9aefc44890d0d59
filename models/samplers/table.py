"""Table of the samplers by name. The table is read without torch, the functions need it."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.samplers.interface import Sampler, Schedule

_HERE = "models.samplers"


@dataclass(frozen=True)
class SamplerEntry:
    """Sampler with its noise levels.

    Functions are given as `package.module:function` and imported at first use, because settings read the
    names without torch.

    Attributes:
        function: the sampler, a `Sampler`.
        words: display name.
        recommended_steps: number of steps at which the mean and the standard deviation of known distributions
            are within 2 %.
        num_passes: function from the number of steps to the number of denoise calls.
        stochastic: whether every step adds noise, which ``sample`` needs as ``fresh``.
        least_steps: smallest allowed number of steps.
        levels: its noise levels, a `Schedule`.
    """

    function: str
    words: str
    recommended_steps: int
    num_passes: Callable[[int], int] = lambda num_steps: num_steps
    stochastic: bool = False
    least_steps: int = 1
    levels: str = f"{_HERE}.schedule:sigma_schedule"

    @property
    def sample(self) -> Sampler:
        """Function from initial noise to samples."""
        found: Sampler = pkgutil.resolve_name(self.function)
        return found

    @property
    def schedule(self) -> Schedule:
        """Noise levels: (num_steps, sigma_min, sigma_max, rho) -> (num_steps + 1,)."""
        found: Schedule = pkgutil.resolve_name(self.levels)
        return found


# The largest error of the deviation at these steps, over 16 directions with variances from 0.02 to 4 and the
# levels of the default settings: dpmpp_2m 1.7 %, dpmpp_2m_sde 1.1 %, heun 1.6 %, ddim 1.6 %, plms 0.9 %,
# ddpm 0.8 %, flow_euler 1.4 %; of the mean, at most 0.7 % of the deviation.
SAMPLERS: dict[str, SamplerEntry] = {
    "dpmpp_2m": SamplerEntry(f"{_HERE}.multistep:sample_dpmpp_2m", "DPM-Solver++(2M)", recommended_steps=26),
    "dpmpp_2m_sde": SamplerEntry(
        f"{_HERE}.stochastic:sample_dpmpp_2m_sde",
        "its stochastic form",
        recommended_steps=50,
        stochastic=True,
    ),
    "heun": SamplerEntry(
        f"{_HERE}.deterministic:sample_heun",
        "Heun's method",
        recommended_steps=30,
        num_passes=lambda num_steps: 2 * num_steps - 1,
    ),
    "ddim": SamplerEntry(f"{_HERE}.deterministic:sample_ddim", "DDIM", recommended_steps=200),
    "plms": SamplerEntry(
        f"{_HERE}.multistep:sample_plms",
        "PLMS (PNDM)",
        recommended_steps=24,
        num_passes=lambda num_steps: num_steps + (num_steps > 1),
    ),
    # Fewer steps narrow a Gaussian of variance 0.02 by over 2 % (200: 3.1 %, 50: 11 %).
    "ddpm": SamplerEntry(
        f"{_HERE}.stochastic:sample_ddpm",
        "ancestral DDPM (at least 400 steps)",
        recommended_steps=1000,
        stochastic=True,
        least_steps=400,
    ),
    "flow_euler": SamplerEntry(
        f"{_HERE}.deterministic:sample_ddim",
        "Euler's method on a rectified flow",
        recommended_steps=250,
        levels=f"{_HERE}.schedule:flow_schedule",
    ),
}
"""Name in `sample.sampler` -> sampler, in the order of the settings page."""
