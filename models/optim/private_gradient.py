"""The gradient of differentially private training: per-scan gradients are clipped, then noise is added."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser
from models.network.upsampling import UpsampleConvolution


class PrivateGradient:
    """Sums clipped per-scan gradients and adds Gaussian noise (DP-SGD, arXiv 1607.00133), with Opacus.

    The result is stored in the parameters' `grad` for any optimiser: computations on it alone do not cost
    additional privacy.

    Args:
        denoiser: fp32 denoiser, on its device; it gets hooks, and its fused layers are unfused.
        noise_multiplier: standard deviation of the noise divided by `max_grad_norm`.
        max_grad_norm: bound of the gradient norm of each scan.
        expected_batch: expected number of scans per step, by which the sum is divided.

    Attributes:
        compute: callable to use instead of the denoiser.
    """

    def __init__(
        self, denoiser: Denoiser, *, noise_multiplier: float, max_grad_norm: float, expected_batch: float
    ) -> None:
        from opacus.grad_sample import GradSampleModule
        from opacus.optimizers import DPOptimizer

        for layer in denoiser.modules():
            if isinstance(layer, UpsampleConvolution):
                # Opacus computes gradients of layers that are called, not of weights that are read.
                layer.fused = False
        self.compute = GradSampleModule(denoiser, loss_reduction="sum")
        self._parameters = [p for p in denoiser.parameters() if p.requires_grad]
        self._expected_batch = expected_batch
        # Used to clip and add noise; its own optimiser never takes a step.
        self._clipping = DPOptimizer(
            torch.optim.SGD(self._parameters, lr=0.0),
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=None,
            loss_reduction="sum",
        )

    def add(self, losses: Tensor) -> None:
        """Add the clipped gradients of scans.

        Args:
            losses: (n,) one loss per scan, computed with `compute` only.
        """
        with warnings.catch_warnings():
            # Hooks of the first layers fire without a gradient of their inputs, which is not needed.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            losses.sum().backward()
        self._clipping.clip_and_accumulate()
        for parameter in self._parameters:
            parameter.grad_sample = None  # type: ignore[attr-defined]

    def finish(self, generator: torch.Generator) -> None:
        """Store the mean gradient with noise in `grad` and reset the sum; without scans it is noise alone.

        Args:
            generator: random generator of the noise. It must stay secret as long as the guarantee should
                hold.
        """
        for parameter in self._parameters:
            if parameter.summed_grad is None:  # type: ignore[attr-defined]
                parameter.summed_grad = torch.zeros_like(parameter)  # type: ignore[attr-defined]
        self._clipping.generator = generator
        self._clipping.add_noise()
        for parameter in self._parameters:
            assert parameter.grad is not None
            parameter.grad /= self._expected_batch
            parameter.summed_grad = None  # type: ignore[attr-defined]
