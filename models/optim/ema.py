"""Averages of the weights during training, several lengths at once, and post-hoc averages of any length."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.checkpoint import load_into

ModelT = TypeVar("ModelT", bound=nn.Module)
Profile = tuple[float, int]
"""(length, step): the average of that length after that many steps."""

MAX_LENGTH = 0.28
"""Longest average; the limit of the power functions is the plain mean of all steps, 1 / sqrt(12) = 0.289."""
MIN_LENGTH = 0.005
MAX_PROFILE_ERROR = 0.10
"""Largest relative L2 error of a profile made from snapshots that is accepted."""
_MAX_BINS = 8192


def exponent(length: float) -> float:
    """Return the exponent gamma of a power-function average.

    Its profile over the steps up to t grows as tau^gamma. Its length sigma_rel is the standard deviation of
    the profile relative to the training so far (Karras et al. 2024, arXiv 2312.02696, equation 124):
    sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), a cubic in gamma.

    Args:
        length: sigma_rel, from 0.005 to 0.28.

    Raises:
        ValueError: the length lies outside that range.
    """
    if not MIN_LENGTH <= length <= MAX_LENGTH:
        raise ValueError(f"the length of an average must be {MIN_LENGTH} to {MAX_LENGTH}, got {length!r}")
    inverse = length**-2.0
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return float(roots.real.max())


def profile(length: float, step: int, edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the share in an average of the steps between neighbouring ``edges``; the shares sum to one.

    If (1 - 1/t)^(gamma + 1) of the average is kept at step t, step i of t has the share
    (i^(gamma+1) - (i-1)^(gamma+1)) / t^(gamma+1): the update gives the power function exactly.

    Args:
        length: sigma_rel of the average.
        step: number of steps when the average was taken, at least 1.
        edges: ascending numbers of steps (K + 1,), from 0 to at least ``step``.
    """
    return np.diff((np.minimum(edges, step) / step) ** (exponent(length) + 1.0))


def mixture(stored: Sequence[Profile], wanted: Profile) -> tuple[npt.NDArray[np.float64], float]:
    """Find the mixture of stored averages whose profile is closest to the requested one.

    Least squares in fp64 (arXiv 2312.02696, appendix C), with factors that sum to one, so that the mixture is
    an average too. A stored average is used unchanged.

    Args:
        stored: the stored averages; those of later steps than the requested one are not used.
        wanted: the requested average.

    Returns:
        Factors (len(stored),), and the error of the mixture's profile relative to the requested profile.

    Raises:
        ValueError: no stored average is of the requested step or earlier.
    """
    factors = np.zeros(len(stored))
    if wanted in stored:
        factors[stored.index(wanted)] = 1.0
        return factors, 0.0
    usable = [place for place, (_, step) in enumerate(stored) if step <= wanted[1]]
    if not usable:
        raise ValueError(f"no average was stored by step {wanted[1]}")
    edges = np.linspace(0.0, wanted[1], min(wanted[1], _MAX_BINS) + 1)
    target = profile(*wanted, edges)
    columns = np.stack([profile(*stored[place], edges) for place in usable], axis=1)
    # The last factor is one minus the others, so that all factors sum to one.
    base = columns[:, -1]
    rest = np.linalg.lstsq(columns[:, :-1] - base[:, None], target - base, rcond=None)[0]
    factors[usable] = [*rest, 1.0 - rest.sum()]
    error = np.linalg.norm(columns @ factors[usable] - target) / np.linalg.norm(target)
    return factors, float(error)


class PowerFunctionAverages(Generic[ModelT]):
    """Power-function averages of the weights during training (arXiv 2312.02696, section 3.1).

    Their length is relative to the training so far. The random initial weights are therefore forgotten
    quickly, and the same length is suitable for any number of steps.

    Args:
        model: the model in training; each average is held by a copy of it.
        lengths: sigma_rel of each average; about 0.05 to 0.15 is suitable for most trainings.

    Raises:
        ValueError: there is no length, a length occurs twice, or a length is out of range.
    """

    def __init__(self, model: ModelT, lengths: Sequence[float]) -> None:
        if not lengths or len(set(lengths)) != len(lengths):
            raise ValueError(f"lengths must not be empty or repeated, got {list(lengths)}")
        self._powers = {float(length): exponent(length) + 1.0 for length in lengths}
        self.models: dict[float, ModelT] = {
            length: copy.deepcopy(model).eval().requires_grad_(False) for length in self._powers
        }
        self._source: list[Tensor] = list(model.parameters())
        self._source_buffers = list(model.buffers())
        self._buffers: dict[float, list[Tensor]] = {
            length: list(average.buffers()) for length, average in self.models.items()
        }
        self._averages: dict[float, list[Tensor]] = {
            length: list(average.parameters()) for length, average in self.models.items()
        }

    @property
    def lengths(self) -> tuple[float, ...]:
        """sigma_rel of each average, in the order given."""
        return tuple(self.models)

    def nearest(self, length: float) -> ModelT:
        """Return the tracked average whose length is closest to ``length``."""
        return self.models[min(self.models, key=lambda own: abs(math.log(own / length)))]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update every average with the current weights of the model; buffers are copied, not averaged.

        Args:
            step: number of steps so far, from 1; the first step replaces the initial weights.
        """
        for length, average in self._averages.items():
            kept = (1.0 - 1.0 / step) ** self._powers[length]
            torch._foreach_lerp_(average, self._source, 1.0 - kept)
            for target, source in zip(self._buffers[length], self._source_buffers, strict=True):
                target.copy_(source)

    def tensors(self) -> dict[str, Tensor]:
        """Return all averages by name, ``<length>.<name of the tensor>``, to save and resume a training."""
        return {
            f"{length!r}.{name}": tensor
            for length, average in self.models.items()
            for name, tensor in average.state_dict().items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the tensors of ``tensors()`` back in place.

        Raises:
            ValueError: names, shapes or types differ.
        """
        for length, average in self.models.items():
            prefix = f"{length!r}."
            load_into(
                average,
                {
                    name.removeprefix(prefix): part
                    for name, part in tensors.items()
                    if name.startswith(prefix)
                },
            )
