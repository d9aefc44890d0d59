"""The autoencoder takes scans of any size, gives a scan the same latent in any company, and learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.latent.autoencoder import (
    BLOCK_SIZE,
    Autoencoder,
    AutoencoderSpec,
    autoencoder_loss,
    freeze_autoencoder,
    gradient_error,
    sample_latents,
)
from models.optim.precision import Precision
from models.optim.working_copy import NarrowCopy
from tests.cohorts import draw

FIELDS: dict[str, Any] = {"channels": (8, 16), "patch_size": 4, "num_norm_groups": 8}


def drawn_images(count: int, size: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    pixels = np.stack([draw(i % 3, size, rng) for i in range(count)])[:, None]
    return torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1.0)


def psnr(images: Tensor, reference: Tensor) -> float:
    """Mean peak signal-to-noise ratio in dB of images in [-1, 1]."""
    error = (images.clamp(-1, 1) - reference).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(4.0 / error)).mean())


@pytest.mark.parametrize(
    ("size", "latent_size", "fields"),
    [
        # MONAI's own class turns 30 pixels into 28, and fails on 28 pixels with four levels.
        ((30, 30), (8, 8), {"channels": (8, 8, 8), "patch_size": 1, "num_norm_groups": 8}),
        ((28, 28), (4, 4), {"channels": (8, 8, 8, 8), "patch_size": 1, "num_norm_groups": 8}),
        ((7, 13), (1, 2), FIELDS),
        ((1, 1), (1, 1), FIELDS),
        ((33, 64), (5, 8), FIELDS),
    ],
)
def test_scans_of_any_size_come_back_in_their_size(
    size: tuple[int, int], latent_size: tuple[int, int], fields: dict[str, Any]
) -> None:
    autoencoder = Autoencoder(AutoencoderSpec(size, **fields))
    mean, logvar = autoencoder.encode(torch.zeros(2, 1, *size))
    assert autoencoder.spec.latent_size == latent_size
    assert mean.shape == logvar.shape == (2, 4, *latent_size)
    assert autoencoder.decode(mean).shape == (2, 1, *size)


def test_what_is_cropped_back_lies_where_it_was() -> None:
    """An identity in place of the network shows the padding alone."""
    autoencoder = Autoencoder(
        AutoencoderSpec((10, 7), channels=(8,), patch_size=4, latent_channels=16, num_norm_groups=8)
    )
    network = autoencoder.network
    for name in ("encoder", "decoder", "quant_conv_mu", "post_quant_conv"):
        setattr(network, name, torch.nn.Identity())
    images = torch.rand(2, 1, 10, 7)
    mean, _ = autoencoder.encode(images)
    assert mean.shape == (2, 16, 3, 2)
    assert torch.equal(autoencoder.decode(mean), images)


@pytest.mark.parametrize("size", [(0, 8), (8, 0), (8,), (8.0, 8)])
def test_sizes_that_no_scan_has_are_refused(size: Any) -> None:
    with pytest.raises(ValueError, match="image_size"):
        AutoencoderSpec(size)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channels", (8, 12)),
        ("channels", ()),
        ("latent_channels", 0),
        ("patch_size", 17),
        ("num_res_blocks", 0),
    ],
)
def test_a_specification_that_cannot_be_built_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        AutoencoderSpec((16, 16), **{**FIELDS, field: value})


def test_a_specification_survives_json_and_unknown_fields_are_refused() -> None:
    spec = AutoencoderSpec((30, 20), **FIELDS)
    assert AutoencoderSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(ValueError, match="levels"):
        AutoencoderSpec.from_dict({**spec.to_dict(), "levels": 3})
    with pytest.raises(ValueError, match="image_size"):
        AutoencoderSpec.from_dict({"channels": [8]})


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="images"):
        Autoencoder(AutoencoderSpec((16, 16), **FIELDS)).encode(torch.zeros(1, 1, 16, 15))


def test_weights_come_from_the_seed_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, same, other = (Autoencoder(AutoencoderSpec((16, 16), **FIELDS), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    key = "network.encoder.blocks.0.conv.weight"
    assert torch.equal(first.state_dict()[key], same.state_dict()[key])
    assert not torch.equal(first.state_dict()[key], other.state_dict()[key])


def test_a_scan_has_the_same_bytes_alone_and_in_any_company() -> None:
    autoencoder = freeze_autoencoder(Autoencoder(AutoencoderSpec((20, 20), **FIELDS), seed=1))
    images = drawn_images(2 * BLOCK_SIZE + 3, 20, seed=0)
    whole = autoencoder.moments(images)
    latents = torch.randn(len(images), 4, *autoencoder.spec.latent_size)
    decoded = autoencoder.to_images(latents)
    for row in (0, BLOCK_SIZE - 1, BLOCK_SIZE, len(images) - 1):
        assert torch.equal(autoencoder.moments(images[row : row + 1])[0], whole[row])
        assert torch.equal(autoencoder.to_images(latents[row : row + 1])[0], decoded[row])
    assert torch.equal(autoencoder.moments(images.flip(0)).flip(0), whole)


def test_scaling_gives_the_asked_deviation_and_can_be_undone() -> None:
    autoencoder = Autoencoder(AutoencoderSpec((16, 16), **FIELDS))
    latents = torch.randn(4000, 4, 2, 2) * torch.tensor([0.1, 1.0, 3.0, 7.0]).reshape(-1, 1, 1) + 2.0
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    autoencoder.set_scaling(mean, std, target_std=0.5)
    scaled = autoencoder.normalise(latents)
    assert torch.allclose(scaled.mean((0, 2, 3)), torch.zeros(4), atol=1e-5)
    assert torch.allclose(scaled.std((0, 2, 3)), torch.full((4,), 0.5), rtol=1e-4)
    assert torch.allclose(autoencoder.denormalise(scaled), latents, atol=1e-4)
    for bad in (torch.tensor([0.0, 1, 1, 1]), torch.tensor([float("nan"), 1, 1, 1])):
        with pytest.raises(ValueError, match="latent statistics"):
            autoencoder.set_scaling(mean, bad, target_std=0.5)


def test_drawn_latents_have_the_mean_and_variance_asked_for() -> None:
    mean, logvar = torch.full((20_000, 1), 3.0), torch.full((20_000, 1), float(np.log(0.25)))
    drawn = sample_latents(mean, logvar, torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0)))
    assert float(drawn.mean()) == pytest.approx(3.0, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.02)


def test_the_gradient_error_sees_edges_and_not_brightness() -> None:
    flat = torch.full((1, 1, 16, 16), 0.3)
    edge = torch.zeros(1, 1, 16, 16)
    edge[..., 8:] = 1.0
    assert float(gradient_error(flat)) == 0.0
    # One of 15, 7 and 3 horizontal differences is 1 at the three scales; the vertical ones are all 0.
    assert float(gradient_error(edge)) == pytest.approx((1 / 15 + 1 / 7 + 1 / 3) / 6)
    assert float(gradient_error(torch.ones(1, 1, 1, 1))) == 0.0


def test_the_divergence_is_zero_for_the_unit_normal_and_known_for_another() -> None:
    class Fixed(Autoencoder):
        def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
            shape = (len(images), 4, *self.spec.latent_size)
            return torch.full(shape, self.fixed[0]), torch.full(shape, self.fixed[1])

        fixed = (0.0, 0.0)

    autoencoder = Fixed(AutoencoderSpec((16, 16), **FIELDS))
    for fixed, expected in (((0.0, 0.0), 0.0), ((2.0, 0.0), 2.0), ((0.0, -2.0), 0.5 * (np.exp(-2) + 1))):
        autoencoder.fixed = fixed
        with torch.no_grad():
            loss = autoencoder_loss(
                autoencoder,
                torch.zeros(1, 1, 16, 16),
                noise=torch.zeros(1, 4, 2, 2),
                gradient_weight=0.5,
                kl_weight=0.1,
            )
        assert float(loss.divergence) == pytest.approx(expected)
        total = float(loss.absolute) + 0.5 * float(loss.gradient) + 0.1 * float(loss.divergence)
        assert float(loss.total) == pytest.approx(total, rel=1e-5)


def test_training_in_bf16_reconstructs_unseen_scans_better_than_a_blur_of_the_same_grid() -> None:
    size = 32
    train, unseen = drawn_images(120, size, seed=0), drawn_images(24, size, seed=1)
    spec = AutoencoderSpec((size, size), channels=(32,), patch_size=4, num_norm_groups=8)
    autoencoder = Autoencoder(spec, seed=0)
    working = NarrowCopy(autoencoder, Precision("bf16", channels_last=False))
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=8e-3, betas=(0.9, 0.99), weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)

    def reconstruction() -> float:
        mean, _ = autoencoder.encode(unseen)
        return psnr(autoencoder.decode(mean).detach(), unseen)

    before = reconstruction()
    for step in range(150):
        for group in optimizer.param_groups:
            group["lr"] = 8e-3 * (1 - step / 150)
        rows = torch.randint(len(train), (16,), generator=generator)
        noise = torch.randn(16, 4, *autoencoder.spec.latent_size, generator=generator)
        autoencoder_loss(
            working.model, train[rows], noise=noise, gradient_weight=1.0, kl_weight=1e-3
        ).total.backward()
        working.return_gradients()
        optimizer.step()
        working.clear_gradients()
        working.take_weights()
    blurred = functional.interpolate(
        functional.avg_pool2d(unseen, autoencoder.spec.factor), size=(size, size), mode="bilinear"
    )
    after, baseline = reconstruction(), psnr(blurred, unseen)
    assert after > before + 6.0
    assert after > max(baseline + 3.0, 22.0)
