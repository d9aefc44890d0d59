"""The denoiser: a network with preconditioning at every noise level."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.diffusion.parametrisation import PARAMETRISATIONS
from models.diffusion.spectral import NOISE_SPREAD, SpectralSkip
from models.network.condition import Condition, null_codes
from models.network.network import NetworkSpec, build_network

# The network embeds its noise input by sines with periods 1 to 10,000. EDM's c_noise spans about [-1.6, 1.1];
# this factor scales it to enough of these periods to distinguish neighbouring noise levels.
NOISE_INPUT_SCALE = 100.0


class Denoiser(nn.Module):
    """Class-conditional denoiser D(x; sigma, condition), preconditioned at every noise level.

    ``D = c_skip x + c_out F(c_in x, c_noise, condition)`` (arXiv 2206.00364, equation 7) with the
    coefficients of ``models/diffusion/parametrisation.py``. With ``spectral``, c_skip and c_out are those of
    each spatial frequency (``models/diffusion/spectral.py``).

    Args:
        spec: shape of the network.
        sigma_data: standard deviation of the data that the coefficients assume; data lie in [-1, 1].
        parametrisation: what the network predicts, ``edm``, ``flow`` or ``spectral``.
        seed: seed of the initial weights.

    Raises:
        ValueError: ``sigma_data`` is not a positive finite number, or ``parametrisation`` is unknown.
    """

    def __init__(
        self, spec: NetworkSpec, *, sigma_data: float = 0.5, parametrisation: str = "edm", seed: int = 0
    ) -> None:
        super().__init__()
        if not 0.0 < sigma_data < float("inf"):
            raise ValueError(f"sigma_data must be positive and finite, got {sigma_data!r}")
        if parametrisation not in PARAMETRISATIONS:
            raise ValueError(
                f"parametrisation must be one of {sorted(PARAMETRISATIONS)}, got {parametrisation!r}"
            )
        self.spec = spec
        self.sigma_data = float(sigma_data)
        self.parametrisation = parametrisation
        self.skip = SpectralSkip(spec.image_size, sigma_data) if parametrisation == "spectral" else None
        self.network = build_network(spec, seed=seed)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Dtype of the network's weights and computations (see models/optim/precision.py)."""
        return next(self.network.parameters()).dtype

    @property
    def noise_spread(self) -> float:
        """Factor by which the training of this parametrisation spreads ln(sigma) more widely, at least 1."""
        return 1.0 if self.skip is None else NOISE_SPREAD

    @property
    def null_label(self) -> int:
        """The class index that means "no class": the unconditional branch of guidance."""
        return self.spec.null_label

    @property
    def num_classes(self) -> int:
        """The number of real classes."""
        return self.spec.num_classes

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of a sample."""
        return (self.spec.in_channels, *self.spec.image_size)

    def expand(self, codes: Tensor) -> Tensor:
        """Return (N, F) codes; classes (N,) are extended by the null codes of all other fields."""
        if codes.ndim == 2:
            return codes
        filled = self.null_codes(len(codes), codes.device).clone()
        filled[:, 0] = codes
        return filled

    def null_codes(self, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Return (count, F) int64 null codes: no condition is given."""
        return null_codes(self.spec.num_values, count, device)

    def forward(self, x: Tensor, sigma: Tensor, codes: Tensor, augment: Tensor | None = None) -> Tensor:
        """Estimate the clean scan.

        Args:
            x: noisy scans (N, C, H, W), clean data in [-1, 1] plus sigma times unit noise.
            sigma: noise levels (N,), not negative.
            codes: condition codes (N, F) int64, or classes (N,) with nothing else given; ``null_label`` means
                no class.
            augment: features (N, A) of the augmentation to condition on; None for none.

        Returns:
            The expected clean scans (N, C, H, W), fp32.
        """
        x = x.float()
        sigma = sigma.float().reshape(-1, 1, 1, 1)
        c_skip, c_out, c_in, c_noise = PARAMETRISATIONS[self.parametrisation](sigma, self.sigma_data)
        condition = (self.expand(codes), augment)
        output = self._run_network((c_in * x).to(self.compute_dtype), c_noise.flatten(), condition)
        if self.skip is not None:
            return self.skip(x, output.float(), sigma)
        return c_skip * x + c_out * output.float()

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """Return the weight of the squared error at noise levels (N,), all positive.

        It is 1 / c_out^2, with which the error is that of the network's own target (arXiv 2206.00364,
        equation 8). With ``spectral``, c_out^2 is the mean over the spatial frequencies.
        """
        if self.skip is not None:
            return self.skip.loss_weight(sigma)
        _, c_out, _, _ = PARAMETRISATIONS[self.parametrisation](sigma, self.sigma_data)
        return torch.reciprocal(c_out.square())

    def _run_network(self, x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
        height, width = x.shape[-2:]
        pad_height, pad_width = -height % self.spec.multiple, -width % self.spec.multiple
        top, left = pad_height // 2, pad_width // 2
        if pad_height or pad_width:
            padding = (left, pad_width - left, top, pad_height - top)
            x = functional.pad(x, padding, mode="replicate")
        patch = self.spec.patch_size
        if patch > 1:
            x = functional.pixel_unshuffle(x, patch)
        output: Tensor = self.network(x, c_noise * NOISE_INPUT_SCALE, class_labels=condition)
        if patch > 1:
            output = functional.pixel_shuffle(output, patch)
        if pad_height or pad_width:
            output = output[..., top : top + height, left : left + width]
        return output
