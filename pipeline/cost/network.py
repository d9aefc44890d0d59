"""Denoisers before training: their layers, their precision, and the time for one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.latent.autoencoder_spec import AutoencoderSpec
from models.network.spec import NetworkSpec
from pipeline.cost.pacing import Pace, pace_of

if TYPE_CHECKING:
    from models.diffusion.denoiser import Denoiser
    from models.optim.precision import Precision


@dataclass(frozen=True)
class PlannedNetwork:
    """Denoiser of a checkpoint that exists or is planned.

    Attributes:
        spec: specification of the network.
        precision: `fp32`, `bf16`, or `auto` if training chooses.
        sigma_data: assumed standard deviation of the data.
        autoencoder: autoencoder of its latents; None for pixels.
        parametrisation: prediction target of the network.
    """

    spec: NetworkSpec
    precision: str
    sigma_data: float
    autoencoder: AutoencoderSpec | None = None
    parametrisation: str = "edm"

    def denoiser(self) -> Denoiser:
        """Return a denoiser of this shape on this machine's device, in fp32."""
        from models.devices import default_device
        from models.diffusion.denoiser import Denoiser

        made = Denoiser(self.spec, sigma_data=self.sigma_data, parametrisation=self.parametrisation)
        return made.to(default_device())

    def arithmetic(self) -> Precision:
        """Return the precision that it computes with on this machine.

        The probe of `auto` takes too long for an estimate, so its expected result is used: bf16 if the
        processor supports it, otherwise fp32.
        """
        from models.devices import default_device, has_bf16
        from models.optim.precision import Precision, precisions_of

        device = default_device()
        wanted = self.precision
        if wanted == "auto":
            wanted = "bf16" if has_bf16(device) else "fp32"
        tried = precisions_of(device)
        return next((one for one in tried if one.dtype == wanted), Precision(wanted, channels_last=True))


def denoise_pace(network: PlannedNetwork, batch_size: int) -> Pace:
    """Measure the time of one denoise call on a batch, without gradients."""
    import torch

    from models.optim.precision import apply_precision

    denoiser = apply_precision(network.denoiser(), network.arithmetic()).eval()
    device = next(denoiser.parameters()).device
    noise = torch.zeros(batch_size, *denoiser.sample_shape, device=device)
    sigma = torch.full((batch_size,), 0.5, device=device)
    labels = torch.zeros(batch_size, dtype=torch.int64, device=device)

    def call(count: int) -> None:
        with torch.no_grad():
            denoiser(noise[:count], sigma[:count], labels[:count])

    return pace_of(call, batch_size)
