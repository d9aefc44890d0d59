"""MONAI's 2D latent-diffusion tutorial: its two training loops with the networks of its 16 GB configuration.

Facts from the tutorial's `config_train_16g.json`, `train_autoencoder.py` and `train_diffusion.py`
(Project-MONAI/tutorials, generation/2d_ldm): layers, batch sizes, losses and learning rates. As it is timed
on a CPU, there is no autocast. The perceptual loss is left out, since its weights are a download: the
tutorial's own loop is slower than this one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.experiments.benchmarks.peers import TRAIN_TIMESTEPS

AUTOENCODER_BATCH, DENOISER_BATCH = 13, 50
KL_WEIGHT, ADVERSARIAL_WEIGHT = 1e-6, 0.5


def tutorial_autoencoder() -> nn.Module:
    """Return MONAI's ``AutoencoderKL`` as the tutorial does: one latent channel, a quarter of each side."""
    from monai.networks.nets.autoencoderkl import AutoencoderKL

    return AutoencoderKL(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        latent_channels=1,
        channels=(64, 128, 256),
        num_res_blocks=2,
        norm_num_groups=32,
        norm_eps=1e-6,
        attention_levels=(False, False, False),
        with_encoder_nonlocal_attn=True,
        with_decoder_nonlocal_attn=True,
    )


class AutoencoderLoop:
    """Training of the autoencoder against a patch discriminator.

    Args:
        device: where to train.
    """

    def __init__(self, device: torch.device) -> None:
        from monai.losses.adversarial_loss import PatchAdversarialLoss
        from monai.networks.nets.patchgan_discriminator import PatchDiscriminator

        self.network = tutorial_autoencoder().to(device).train()
        self.discriminator = PatchDiscriminator(
            spatial_dims=2, num_layers_d=3, channels=32, in_channels=1, out_channels=1, norm="INSTANCE"
        ).to(device)
        self.adversarial = PatchAdversarialLoss(criterion="least_squares")
        self.optimizers = [
            torch.optim.Adam(own.parameters(), lr=2.5e-5) for own in (self.network, self.discriminator)
        ]

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Update the autoencoder, then the discriminator, on images (N, 1, H, W)."""
        ours, theirs = self.optimizers
        ours.zero_grad(set_to_none=True)
        reconstruction, mean, sigma = self.network(images)
        kl = 0.5 * (mean.square() + sigma.square() - sigma.square().log() - 1.0).sum(dim=(1, 2, 3)).mean()
        judged = self.discriminator(reconstruction)[-1]
        fooled = self.adversarial(judged, target_is_real=True, for_discriminator=False)
        loss = functional.l1_loss(reconstruction, images) + KL_WEIGHT * kl + ADVERSARIAL_WEIGHT * fooled
        loss.backward()
        ours.step()
        theirs.zero_grad(set_to_none=True)
        parts = [
            self.adversarial(self.discriminator(own)[-1], target_is_real=real, for_discriminator=True)
            for own, real in ((reconstruction.detach(), False), (images, True))
        ]
        (ADVERSARIAL_WEIGHT * 0.5 * (parts[0] + parts[1])).backward()
        theirs.step()


class LatentDenoiserLoop:
    """Noise prediction on the latents of a frozen autoencoder, which encodes each batch anew, as published.

    Args:
        device: where to train.
    """

    def __init__(self, device: torch.device) -> None:
        from monai.inferers import LatentDiffusionInferer
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
        from monai.networks.schedulers import DDPMScheduler

        self.autoencoder = tutorial_autoencoder().to(device).eval()
        self.network = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=(32, 64, 128, 256),
            attention_levels=(False, True, True, True),
            num_head_channels=(0, 32, 32, 32),
            num_res_blocks=2,
        ).to(device)
        self.network.train()
        scheduler = DDPMScheduler(
            num_train_timesteps=TRAIN_TIMESTEPS,
            schedule="scaled_linear_beta",
            beta_start=0.0015,
            beta_end=0.0195,
        )
        self.inferer = LatentDiffusionInferer(scheduler, scale_factor=1.0)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-5)

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Do one optimiser step on images (N, 1, H, W), sides divisible by 32; the labels are not used."""
        self.optimizer.zero_grad(set_to_none=True)
        noise = torch.randn(len(images), 1, images.shape[-2] // 4, images.shape[-1] // 4).to(images)
        timesteps = torch.randint(0, TRAIN_TIMESTEPS, (len(images),), device=images.device).long()
        predicted = self.inferer(
            inputs=images,
            autoencoder_model=self.autoencoder,
            diffusion_model=self.network,
            noise=noise,
            timesteps=timesteps,
        )
        functional.mse_loss(predicted.float(), noise.float()).backward()
        self.optimizer.step()
