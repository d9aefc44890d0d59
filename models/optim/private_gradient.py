"""The gradient of differentially private training: each scan's share is clipped, then noise is added."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser
from models.network.upsampling import UpsampleConvolution


class PrivateGradient:
    """Sums per-scan gradients of bounded norm and adds Gaussian noise (DP-SGD, arXiv 1607.00133), by Opacus.

    The result is left in the parameters' `grad`, where any optimiser may use it: what is computed from it
    alone costs no more privacy.

    Args:
        denoiser: fp32, on its device; it gets hooks, and its fused layers run one by one from now on.
        noise_multiplier: standard deviation of the noise over `max_grad_norm`.
        max_grad_norm: bound of each scan's gradient norm.
        expected_batch: expected number of scans a step, by which the sum is divided.

    Attributes:
        compute: what to call instead of the denoiser.
    """

    def __init__(
        self, denoiser: Denoiser, *, noise_multiplier: float, max_grad_norm: float, expected_batch: float
    ) -> None:
        from opacus.grad_sample import GradSampleModule
        from opacus.optimizers import DPOptimizer

        for layer in denoiser.modules():
            if isinstance(layer, UpsampleConvolution):
                # Opacus sees the gradient of a layer that is called, not of weights that are read.
                layer.fused = False
        self.compute = GradSampleModule(denoiser, loss_reduction="sum")
        self._parameters = [p for p in denoiser.parameters() if p.requires_grad]
        self._expected_batch = expected_batch
        # It clips and adds noise; its own optimiser is never asked for a step.
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
            losses: (n,) one loss a scan, computed by `compute` and by it alone.
        """
        with warnings.catch_warnings():
            # Hooks of the first layers fire without a gradient of their inputs, which nobody needs.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            losses.sum().backward()
        self._clipping.clip_and_accumulate()
        for parameter in self._parameters:
            parameter.grad_sample = None  # type: ignore[attr-defined]

    def finish(self, generator: torch.Generator) -> None:
        """Leave the mean gradient with noise in `grad` and begin anew; without scans it is noise alone.

        Args:
            generator: source of the noise. It has to stay secret for as long as the guarantee is to hold.
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
