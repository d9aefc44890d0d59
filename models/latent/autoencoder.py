"""The autoencoder of latent diffusion: MONAI's AutoencoderKL for scans of any size, and its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.latent.autoencoder_spec import AutoencoderSpec
from models.network.upsampling import fuse_upsampling
from models.optim.precision import Precision, apply_precision

LOGVAR_RANGE = (-30.0, 20.0)
"""Limits of the log-variance, as in Rombach et al. 2022; its exponential stays finite in fp32."""

FROZEN_PRECISION = Precision("fp32", channels_last=True)

BLOCK_SIZE = 8
"""Number of scans that ``moments`` and ``to_images`` pass through the network at a time."""

GRADIENT_SCALES = (1, 2, 4)
"""Sides of the squares, in pixels, over which images are averaged before their gradients are compared."""


class Autoencoder(nn.Module):
    """Maps scans to the mean and log-variance of a small latent, and latents back to scans.

    The variational autoencoder of latent diffusion (Rombach et al. 2022, arXiv 2112.10752), without
    attention: at the coarsest level a 512x512 scan has 4,096 positions, whose pairs would cost more than all
        other layers.

    ``shift`` and ``scale`` (one value per latent channel, stored with the weights) map latents to the range
    of the denoiser. They are 0 and 1 until ``set_scaling`` is called with the statistics of the data.

    Args:
        spec: shape of the network.
        seed: seed of the initial weights; the global random state is not changed.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, spec: AutoencoderSpec, *, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        self.network = build_autoencoder_network(spec, seed=seed)
        self.register_buffer("shift", torch.zeros(spec.latent_channels))
        self.register_buffer("scale", torch.ones(spec.latent_channels))

    @property
    def compute_dtype(self) -> torch.dtype:
        """Dtype of the network's weights and computations."""
        return next(self.network.parameters()).dtype

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distribution of the latents of scans.

        Args:
            images: (N, 1, H, W) in [-1, 1], of the size in ``spec``.

        Returns:
            Mean and log-variance of the latents, each (N, latent_channels, h, w) in fp32.

        Raises:
            ValueError: the images have another size.
        """
        if images.shape[1:] != (1, *self.spec.image_size):
            raise ValueError(f"images must be (N, 1, {self.spec.image_size}), got {tuple(images.shape)}")
        padding = self._padding()
        if any(padding):
            images = functional.pad(images, padding, mode="replicate")
        patches = functional.pixel_unshuffle(images, self.spec.patch_size)
        features = self.network.encoder(patches.to(self.compute_dtype))
        mean = self.network.quant_conv_mu(features).float()
        logvar = self.network.quant_conv_log_sigma(features).float().clamp(*LOGVAR_RANGE)
        return mean, logvar

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (N, latent_channels, h, w) to scans (N, 1, H, W), fp32, not clipped to [-1, 1]."""
        features = self.network.post_quant_conv(latents.to(self.compute_dtype))
        images = functional.pixel_shuffle(self.network.decoder(features).float(), self.spec.patch_size)
        left, _, top, _ = self._padding()
        height, width = self.spec.image_size
        return images[..., top : top + height, left : left + width]

    def set_scaling(self, mean: Tensor, std: Tensor, *, target_std: float) -> None:
        """Set shift and scale so that normalised latents have mean 0 and deviation ``target_std`` per
        channel.

        Args:
            mean: (latent_channels,) mean of the latents of the data.
            std: (latent_channels,) standard deviation of the latents, sampling noise included.
            target_std: standard deviation of the data that the denoiser assumes (``sigma_data``).

        Raises:
            ValueError: a value is not finite or a deviation not positive.
        """
        good = torch.isfinite(mean).all() and torch.isfinite(std).all() and (std > 0).all()
        if not bool(good) or not 0.0 < target_std < float("inf"):
            raise ValueError(
                f"latent statistics must be finite and positive, got {mean.tolist()}, {std.tolist()}"
            )
        with torch.no_grad():
            self.shift.copy_(mean)
            self.scale.copy_(std / target_std)

    def normalise(self, latents: Tensor) -> Tensor:
        """Map latents (N, C, h, w) to the range of the denoiser: ``(latents - shift) / scale``."""
        return (latents - self.shift.reshape(-1, 1, 1)) / self.scale.reshape(-1, 1, 1)

    def denormalise(self, latents: Tensor) -> Tensor:
        """Invert ``normalise``."""
        return latents * self.scale.reshape(-1, 1, 1) + self.shift.reshape(-1, 1, 1)

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        """Return mean and log-variance of scans, (N, 2 latent_channels, h, w), without gradients.

        The network always gets ``BLOCK_SIZE`` scans, because kernels are selected by batch size and round
        differently; a short block is padded. A scan thus has the same latent alone and with others, and
        memory does not grow with N.

        Args:
            images: (N, 1, H, W) in [-1, 1].
        """
        return _in_blocks(lambda block: torch.cat(self.encode(block), dim=1), images)

    @torch.no_grad()
    def to_images(self, latents: Tensor) -> Tensor:
        """Decode normalised latents (N, latent_channels, h, w) to scans (N, 1, H, W), in the same blocks."""
        return _in_blocks(lambda block: self.decode(self.denormalise(block)), latents)

    def _padding(self) -> tuple[int, int, int, int]:
        """Return the padding (left, right, top, bottom) in pixels."""
        height, width = (-size % self.spec.factor for size in self.spec.image_size)
        return width // 2, width - width // 2, height // 2, height - height // 2


def build_autoencoder_network(spec: AutoencoderSpec, *, seed: int) -> Any:
    """Build MONAI's ``AutoencoderKL`` with random initial weights and fused upsampling layers."""
    from monai.networks.nets.autoencoderkl import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoencoderKL(
            spatial_dims=2,
            in_channels=spec.patch_size**2,
            out_channels=spec.patch_size**2,
            num_res_blocks=spec.num_res_blocks,
            channels=spec.channels,
            attention_levels=(False,) * len(spec.channels),
            latent_channels=spec.latent_channels,
            norm_num_groups=spec.num_norm_groups,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )
    fuse_upsampling(network)
    return network


def freeze_autoencoder(autoencoder: Autoencoder) -> Autoencoder:
    """Prepare a trained autoencoder for use, in place: fp32, channels-last, without gradients.

    A scan is encoded and decoded once, so bf16 would save little time and cost grey levels.
    """
    return apply_precision(autoencoder, FROZEN_PRECISION).eval().requires_grad_(False)


def sample_latents(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Return latents ``mean + exp(logvar / 2) noise`` with standard normal ``noise`` of the same shape."""
    return mean + (0.5 * logvar).exp() * noise


@dataclass(frozen=True)
class AutoencoderLoss:
    """The loss of a batch and its parts, scalars.

    Attributes:
        total: the training loss.
        absolute: mean absolute error of the pixels.
        gradient: mean absolute error of the images' gradients over several scales.
        divergence: mean KL divergence of a latent value from the unit normal, in nats.
    """

    total: Tensor
    absolute: Tensor
    gradient: Tensor
    divergence: Tensor


def autoencoder_loss(
    autoencoder: Autoencoder, images: Tensor, *, noise: Tensor, gradient_weight: float, kl_weight: float
) -> AutoencoderLoss:
    """Reconstruct scans from sampled latents and return the weighted error.

    Args:
        autoencoder: the autoencoder.
        images: (N, 1, H, W) in [-1, 1].
        noise: standard normal noise (N, latent_channels, h, w).
        gradient_weight: weight of the gradient error, relative to the absolute error.
        kl_weight: weight of the divergence (a mean over latent values, not a sum).
    """
    mean, logvar = autoencoder.encode(images)
    decoded = autoencoder.decode(sample_latents(mean, logvar, noise))
    absolute = (decoded - images).abs().mean()
    gradient = gradient_error(decoded - images) if gradient_weight else torch.zeros_like(absolute)
    divergence = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
    total = absolute + gradient_weight * gradient + kl_weight * divergence
    return AutoencoderLoss(total, absolute.detach(), gradient.detach(), divergence.detach())


def gradient_error(difference: Tensor) -> Tensor:
    """Return the mean absolute horizontal and vertical gradient of (N, 1, H, W), at ``GRADIENT_SCALES``.

    Edges have more weight in it than in the pixel error, which is small for a blurred image. Scales that
    leave fewer than two pixels per side are skipped.
    """
    errors = []
    for scale in GRADIENT_SCALES:
        level = functional.avg_pool2d(difference, scale) if scale > 1 else difference
        if min(level.shape[-2:]) < 2:
            break
        errors += [level.diff(dim=-1).abs().mean(), level.diff(dim=-2).abs().mean()]
    return torch.stack(errors).mean() if errors else difference.sum() * 0.0


def _in_blocks(call: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    parts = []
    for block in rows.split(BLOCK_SIZE):
        missing = BLOCK_SIZE - len(block)
        filled = torch.cat([block, block[:1].expand(missing, -1, -1, -1)]) if missing else block
        parts.append(call(filled)[: len(block)])
    return torch.cat(parts)
