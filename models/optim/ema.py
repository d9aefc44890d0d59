"""Averages of the weights along training, several lengths at once, and any other length after the fact."""

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
"""Largest error of a profile made from snapshots, relative to its size (L2), that is still taken for it."""
_MAX_BINS = 8192


def exponent(length: float) -> float:
    """Return the exponent gamma of a power-function average.

    Its profile over the steps up to t grows as tau^gamma. Its length sigma_rel is the standard deviation of
    the profile as a share of the training so far (Karras et al. 2024, arXiv 2312.02696, equation 124):
    sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), a cubic in gamma.

    Args:
        length: sigma_rel, from 0.005 to 0.28.

    Raises:
        ValueError: the length lies outside that range.
    """
    if not MIN_LENGTH <= length <= MAX_LENGTH:
        raise ValueError(f"an average's length must lie from {MIN_LENGTH} to {MAX_LENGTH}, got {length!r}")
    inverse = length**-2.0
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return float(roots.real.max())


def profile(length: float, step: int, edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what share of an average the steps between neighbouring ``edges`` have; sums to one.

    With (1 - 1/t)^(gamma + 1) kept of the average at step t, step i of t has the share
    (i^(gamma+1) - (i-1)^(gamma+1)) / t^(gamma+1): the update gives the power function without error.

    Args:
        length: sigma_rel of the average.
        step: steps done when the average was taken, at least 1.
        edges: rising numbers of steps (K + 1,), from 0 to at least ``step``.
    """
    return np.diff((np.minimum(edges, step) / step) ** (exponent(length) + 1.0))


def mixture(stored: Sequence[Profile], wanted: Profile) -> tuple[npt.NDArray[np.float64], float]:
    """Find the mixture of stored averages whose profile comes closest to a wanted one.

    Least squares in fp64 (arXiv 2312.02696, appendix C), with factors that sum to one, so that the mixture
    is an average too. A stored average is returned as it is.

    Args:
        stored: the averages there are; those of later steps than the wanted one are not used.
        wanted: the average to make.

    Returns:
        Factors (len(stored),) and the error of the mixture's profile relative to the wanted one's size.

    Raises:
        ValueError: no stored average is of the wanted step or earlier.
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
    # The last one takes what the others leave, which makes the sum one whatever the rest comes to.
    base = columns[:, -1]
    rest = np.linalg.lstsq(columns[:, :-1] - base[:, None], target - base, rcond=None)[0]
    factors[usable] = [*rest, 1.0 - rest.sum()]
    error = np.linalg.norm(columns @ factors[usable] - target) / np.linalg.norm(target)
    return factors, float(error)


class PowerFunctionAverages(Generic[ModelT]):
    """Power-function averages of the weights along training (arXiv 2312.02696, section 3.1).

    Their memory is a share of the training so far, so that the random initial weights are forgotten quickly
    and the same length suits a training of any number of steps.

    Args:
        model: the model being trained; a copy of it holds each average.
        lengths: sigma_rel of each average: about 0.05 to 0.15 suits most trainings.

    Raises:
        ValueError: there is no length, one occurs twice or lies out of range.
    """

    def __init__(self, model: ModelT, lengths: Sequence[float]) -> None:
        if not lengths or len(set(lengths)) != len(lengths):
            raise ValueError(f"lengths must be given, each once, got {list(lengths)}")
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
        """The tracked average whose length is closest to ``length``."""
        return self.models[min(self.models, key=lambda own: abs(math.log(own / length)))]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the model's present weights into every average; buffers are copied, not averaged.

        Args:
            step: steps done so far, counted from 1: the first one replaces the initial weights.
        """
        for length, average in self._averages.items():
            kept = (1.0 - 1.0 / step) ** self._powers[length]
            torch._foreach_lerp_(average, self._source, 1.0 - kept)
            for target, source in zip(self._buffers[length], self._source_buffers, strict=True):
                target.copy_(source)

    def tensors(self) -> dict[str, Tensor]:
        """All averages by name, ``<length>.<name of the tensor>``: what is saved to go on with training."""
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
