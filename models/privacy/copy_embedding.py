"""A copy-detection embedding: altered copies of an image are close to it, other images are far away."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import nn

from models.devices import to_device
from models.privacy.kept_tensors import kept_for

Tensor = torch.Tensor

POOLED = 4
LOSS_EVERY = 20
"""Steps between two reads of the loss on an accelerator; each read makes the host wait."""


class CopyEmbedding(nn.Module):
    """Small convolutional network that maps images to unit vectors.

    It uses group normalisation instead of batch normalisation, because the embedding of an image must not
    depend on its batch.

    Args:
        dimension: length of the embedding.
        width: channels of the first of three stages; the others have twice as many.
    """

    def __init__(self, dimension: int = 64, width: int = 32) -> None:
        super().__init__()
        if dimension < 2 or width < 8 or width % 8:
            raise ValueError(f"dimension must be >= 2 and width a multiple of 8, got {dimension} and {width}")
        layers: list[nn.Module] = []
        stages = ((1, width, 5, 2), (width, 2 * width, 3, 1), (2 * width, 2 * width, 3, 2))
        for channels, out_channels, kernel, stride in stages:
            layers += [
                nn.Conv2d(channels, out_channels, kernel, stride=stride, padding=kernel // 2),
                nn.GroupNorm(8, out_channels),
                nn.SiLU(),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(POOLED**2 * 2 * width, dimension)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 1, H, W) flat-fielded, unit-variance images to (N, dimension) unit vectors."""
        return F.normalize(self.head(_pooled(self.features(images)).flatten(1)), dim=1)


def _pooled(features: Tensor) -> Tensor:
    """Return the means (N, C, POOLED, POOLED) of features (N, C, H, W) over cells of about equal size."""
    if features.device.type == "cpu":
        return F.adaptive_avg_pool2d(features, POOLED)
    # On a GPU, the gradient of adaptive pooling is summed in an undefined order, and Apple's GPU rejects
    # sizes that do not divide: both use two matrix products instead.
    down, across = (kept_for(features, _means, size) for size in features.shape[-2:])
    return down @ features @ across.T


def _means(size: int) -> Tensor:
    """Return the (POOLED, size) matrix of means over the cells of adaptive pooling."""
    return F.adaptive_avg_pool1d(torch.eye(size)[None], POOLED)[0].T


def standardise(images: Tensor) -> Tensor:
    """Scale each image to zero mean and unit variance, which removes brightness and contrast."""
    centred = images - images.mean(dim=(1, 2, 3), keepdim=True)
    return centred / centred.std(dim=(1, 2, 3), keepdim=True).clamp_min(1e-3)


def altered_copies(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return strongly altered copies of images, with one random alteration per image.

    An alteration combines mirroring, rotation up to 15 degrees, zoom 0.8 to 1.2, shift up to 10 %, gamma 0.6
    to 1.6, a blend of up to 40 % with another image, and noise up to 10 % of the range or a slight blur.

    Args:
        images: (N, 1, H, W) in [-1, 1], on any device.
        generator: random generator on the CPU, so that every device gets the same alterations.
    """
    drawn = _Alterations.draw(images.shape, generator).to(images.device)
    grid = F.affine_grid(drawn.places, list(images.shape), align_corners=False)
    out = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    gamma, share, soft, noise = drawn.amounts.view(4, -1, 1, 1, 1)
    out = ((out.clamp(-1, 1) + 1) / 2).clamp_min(1e-6) ** gamma * 2 - 1
    out = (1 - share) * out + share * out[drawn.partners]
    blurred = F.avg_pool2d(F.pad(out, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    out = (1 - soft) * out + soft * blurred
    return out + noise * drawn.noise


@dataclass(frozen=True)
class _Alterations:
    """Random parameters of `altered_copies`.

    Attributes:
        places: (N, 2, 3) affine maps.
        amounts: (4, N) gamma, share of the other image, share of blur, amount of noise.
        partners: (N,) index of the other image.
        noise: (N, 1, H, W) standard normal noise.
    """

    places: Tensor
    amounts: Tensor
    partners: Tensor
    noise: Tensor

    @classmethod
    def draw(cls, shape: torch.Size, generator: torch.Generator) -> _Alterations:
        """Draw the parameters for images of shape (N, 1, H, W)."""
        count = shape[0]

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(count, generator=generator)

        mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
        angle, zoom = uniform(-15, 15) * (math.pi / 180), uniform(0.85, 1.25)
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        top = torch.stack([cos * mirror, -sin, uniform(-0.2, 0.2)], dim=1)
        bottom = torch.stack([sin * mirror, cos, uniform(-0.2, 0.2)], dim=1)
        gamma = torch.exp(uniform(math.log(0.6), math.log(1.6)))
        share = uniform(-0.4, 0.4).clamp_min(0)
        partners = torch.randperm(count, generator=generator)
        soft = uniform(-0.5, 1.0).clamp(0, 1)
        amount = uniform(-0.2, 0.2).clamp_min(0)
        noise = torch.randn(shape, generator=generator)
        return cls(
            torch.stack([top, bottom], dim=1), torch.stack([gamma, share, soft, amount]), partners, noise
        )

    def to(self, device: torch.device) -> _Alterations:
        """Return the parameters on a device."""
        return _Alterations(*(to_device(getattr(self, each.name), device) for each in fields(self)))


def contrastive_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """InfoNCE over a batch (van den Oord et al. 2018; symmetric as in SimCLR, Chen et al. 2020).

    Args:
        first: (N, d) unit vectors of one view.
        second: (N, d) unit vectors of the other view; equal rows are of the same image.
        temperature: softmax temperature.
    """
    similarity = first @ second.T / temperature
    target = torch.arange(len(first), device=first.device)
    return 0.5 * (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target))


def copies_in_pairs(
    images: Tensor, batch_size: int, generator: torch.Generator
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return a function that draws two altered copies of each image of a random batch.

    Args:
        images: (N, 1, H, W) in [-1, 1], on any device.
        batch_size: images per batch (at most N).
        generator: random generator of all draws, on the CPU.

    Raises:
        ValueError: fewer than two images.
    """
    if len(images) < 2:
        raise ValueError(f"images must hold at least 2 images, got {len(images)}")
    batch_size = min(batch_size, len(images))

    def draw() -> tuple[Tensor, Tensor]:
        chosen = torch.randperm(len(images), generator=generator)[:batch_size]
        batch = images[to_device(chosen, images.device)]
        return altered_copies(batch, generator), altered_copies(batch, generator)

    return draw


def train_on_pairs(
    draw_pairs: Callable[[], tuple[Tensor, Tensor]],
    prepare: Callable[[Tensor], Tensor],
    *,
    num_steps: int,
    learning_rate: float,
    temperature: float,
    generator: torch.Generator,
    on_step: Callable[[int, float], int | None] | None = None,
    dimension: int = 64,
    width: int = 32,
    device: torch.device | None = None,
) -> CopyEmbedding:
    """Train an embedding in which the images of a pair are close and all other images of the batch are far.

    Args:
        draw_pairs: called once per step; returns (N, 1, H, W) images in [-1, 1] and, row by row, their
            partners, on the device.
        prepare: preprocessing of the images (flat-fielding), (N, 1, H, W) -> (N, 1, H, W).
        num_steps: number of optimiser steps.
        learning_rate: peak learning rate of one cosine cycle with a short warm-up.
        temperature: temperature of the loss.
        generator: random generator of the initial weights, on the CPU.
        on_step: called with (step, loss); on an accelerator with the last loss that was read. It may return a
            new total number of steps; the rest of the cosine is then stretched over the remaining steps.
        dimension: length of the embedding.
        width: width of the network.
        device: device of the training; None is the CPU.
    """
    device = device or torch.device("cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        network = CopyEmbedding(dimension, width).to(device, non_blocking=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-4)
    warm_up = max(1, num_steps // 20)
    network.train()
    look_every, seen = 1 if device.type == "cpu" else LOSS_EVERY, math.nan
    step, begin, decayed = 0, 0, 0.0
    while step < num_steps:
        rise = min(1.0, (step + 1) / warm_up)
        share = decayed + (1.0 - decayed) * ((step - begin) / (num_steps - begin))
        rate = learning_rate * rise * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimiser.param_groups:
            group["lr"] = rate
        first, second = network(standardise(prepare(torch.cat(draw_pairs())))).chunk(2)
        loss = contrastive_loss(first, second, temperature)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if on_step is not None:
            if step % look_every == 0 or step == num_steps - 1:
                seen = loss.item()
            changed = on_step(step, seen)
            if changed is not None and changed != num_steps:
                begin, decayed, num_steps = step, share, changed
        step += 1
    return network.eval()


@torch.inference_mode()
def embed(
    network: CopyEmbedding, images: Tensor, prepare: Callable[[Tensor], Tensor], *, block: int = 1024
) -> Tensor:
    """Return (N, dimension) unit vectors of (N, 1, H, W) images in [-1, 1]."""
    parts = [network(standardise(prepare(images[i : i + block]))) for i in range(0, len(images), block)]
    return torch.cat(parts)
