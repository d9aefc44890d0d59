"""The peers: MONAI's and diffusers' networks of our sizes, trained and sampled as their tutorials do."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from models.devices import synchronise
from models.network.spec import NetworkSpec
from pipeline.artifacts.checkpoint import read_checkpoint_info
from pipeline.artifacts.cohort import Cohort

TRAIN_TIMESTEPS = 1000
SKIPPED_STEPS = 3


class Trained(Protocol):
    """A peer's training; `network` is what learns."""

    network: nn.Module

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Do one optimiser step on images (N, 1, H, W) in [-1, 1] with labels (N,), on the peer's device."""


class Peer(Trained, Protocol):
    """A peer's training and its sampler."""

    def sample(self, noise: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Turn unit noise (N, 1, H, W) into images with all 1,000 DDPM steps."""


class Folded(nn.Module):
    """A peer's network between the padding and the space-to-depth that ours has, so that both see as much.

    Args:
        network: takes (N, in_channels p^2, H/p, W/p), timesteps and labels.
        spec: our network's specification.
    """

    def __init__(self, network: nn.Module, spec: NetworkSpec) -> None:
        super().__init__()
        self.network = network
        self.patch = spec.patch_size
        self.multiple = self.patch * 2 ** (len(spec.channels) - 1)

    def forward(self, x: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Predict the noise in x (N, C, H, W)."""
        height, width = x.shape[-2:]
        x = functional.pad(x, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        out = self.network(functional.pixel_unshuffle(x, self.patch), timesteps, class_labels=labels)
        # diffusers wraps its result, MONAI does not.
        out = getattr(out, "sample", out)
        return functional.pixel_shuffle(out, self.patch)[..., :height, :width]


def peer_spec(checkpoint: Path) -> NetworkSpec:
    """Return the specification of the network that ours trained there, conditioned on class alone."""
    spec = NetworkSpec.from_dict(read_checkpoint_info(checkpoint).network)
    return dataclasses.replace(spec, conditions=(), augment_features=0)


def folded_channels(spec: NetworkSpec) -> int:
    """Channels that enter and leave the network inside `Folded`."""
    return spec.in_channels * spec.patch_size**2


def monai_network(spec: NetworkSpec) -> Folded:
    """MONAI's ``DiffusionModelUNet`` as it comes, of the sizes of our network."""
    from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

    network = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=folded_channels(spec),
        out_channels=folded_channels(spec),
        num_res_blocks=spec.num_res_blocks,
        channels=spec.channels,
        attention_levels=spec.attention,
        norm_num_groups=spec.num_norm_groups,
        num_head_channels=spec.num_head_channels,
        num_class_embeds=spec.num_classes + 1,
    )
    return Folded(network, spec)


def diffusers_network(spec: NetworkSpec) -> Folded:
    """diffusers' ``UNet2DModel`` with our channels, residual blocks, attention levels, heads and groups."""
    from diffusers import UNet2DModel

    kinds = ["Attn" if attends else "" for attends in spec.attention]
    network = UNet2DModel(
        sample_size=tuple(side // spec.patch_size for side in spec.image_size),
        in_channels=folded_channels(spec),
        out_channels=folded_channels(spec),
        layers_per_block=spec.num_res_blocks,
        block_out_channels=spec.channels,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        norm_num_groups=spec.num_norm_groups,
        attention_head_dim=spec.num_head_channels,
        num_class_embeds=spec.num_classes + 1,
    )
    return Folded(network, spec)


class TutorialLoop:
    """Noise prediction as MONAI's tutorials write it: their network and scheduler, mean squared error, Adam.

    Args:
        spec: our network's specification.
        device: where to train.
        learning_rate: of Adam.
        average: decay a step of an average of the weights, which then samples; 0 has none, as the tutorials.
        autocast: fp16 autocast with a gradient scaler, as the tutorials do on an accelerator.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        device: torch.device,
        *,
        learning_rate: float = 1e-4,
        average: float = 0.0,
        autocast: bool = False,
    ) -> None:
        from monai.networks.schedulers import DDPMScheduler

        self.device, self.autocast = device, autocast
        self.network = monai_network(spec).to(device).train()
        self.scheduler = DDPMScheduler(num_train_timesteps=TRAIN_TIMESTEPS)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=learning_rate)
        self.scaler = torch.amp.GradScaler(device.type, enabled=autocast)
        self.averaged: AveragedModel | None = None
        if average:
            self.averaged = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(average))

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Do one optimiser step; see `Peer`."""
        self.optimizer.zero_grad(set_to_none=True)
        with _autocast(self.device, self.autocast):
            noise = torch.randn_like(images)
            timesteps = torch.randint(0, TRAIN_TIMESTEPS, (len(images),), device=self.device).long()
            noisy = self.scheduler.add_noise(original_samples=images, noise=noise, timesteps=timesteps)
            predicted = self.network(noisy, timesteps, labels)
            loss = functional.mse_loss(predicted.float(), noise.float())
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)

    @torch.no_grad()
    def sample(self, noise: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Sample with MONAI's ancestral scheduler at full length; see `Peer`."""
        network = (self.averaged or self.network).eval()
        self.scheduler.set_timesteps(TRAIN_TIMESTEPS)
        x = noise
        for t in self.scheduler.timesteps:
            timesteps = torch.full((len(x),), int(t), device=x.device)
            x, _ = self.scheduler.step(network(x, timesteps, labels), int(t), x, generator=generator)
        network.train()
        return x


class DiffusersLoop:
    """Noise prediction as diffusers' training tutorial: AdamW, cosine schedule with warm-up, clipping.

    The tutorial's `accelerate` wrapper comes down to fp16 autocast on an accelerator and nothing on a CPU.

    Args:
        spec: our network's specification.
        device: where to train.
        num_steps: length of the learning-rate schedule; past its end the rate stays where it ended.
        learning_rate: peak rate.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        device: torch.device,
        *,
        num_steps: int = 100_000,
        learning_rate: float = 1e-4,
    ) -> None:
        from diffusers import DDPMScheduler
        from diffusers.optimization import get_cosine_schedule_with_warmup

        self.device, self.autocast = device, device.type == "cuda"
        self.network = diffusers_network(spec).to(device).train()
        self.scheduler = DDPMScheduler(num_train_timesteps=TRAIN_TIMESTEPS)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=learning_rate)
        warmup = min(500, num_steps // 10)
        self.rates = get_cosine_schedule_with_warmup(self.optimizer, warmup, num_steps)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.autocast)

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Do one optimiser step; see `Peer`."""
        with _autocast(self.device, self.autocast):
            noise = torch.randn_like(images)
            timesteps = torch.randint(0, TRAIN_TIMESTEPS, (len(images),), device=self.device).long()
            noisy = self.scheduler.add_noise(images, noise, timesteps)
            loss = functional.mse_loss(self.network(noisy, timesteps, labels).float(), noise.float())
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.rates.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def sample(self, noise: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Sample as diffusers' DDPM pipeline does, with class labels; see `Peer`."""
        network = self.network.eval()
        self.scheduler.set_timesteps(TRAIN_TIMESTEPS)
        x = noise
        for t in self.scheduler.timesteps:
            timesteps = torch.full((len(x),), int(t), device=x.device)
            x = self.scheduler.step(network(x, timesteps, labels), t, x, generator=generator).prev_sample
        network.train()
        return x


@dataclass(frozen=True)
class PeerRun:
    """How a peer's training went: optimiser steps, wall seconds of the loop, and its rate."""

    steps: int
    seconds: float
    images_per_second: float


def train_peer(
    peer: Trained,
    cohort: Cohort,
    *,
    batch_size: int,
    device: torch.device,
    num_steps: int = 0,
    seconds: float = 0.0,
) -> PeerRun:
    """Train for so many steps after the first few, or for so many seconds, with PyTorch's own loader.

    Args:
        peer: the peer.
        cohort: its train split is loaded whole, as the tutorials do with small sets.
        batch_size: images a step.
        device: the peer's device.
        num_steps: timed steps; the rate leaves out `SKIPPED_STEPS` before them.
        seconds: wall time instead of a number of steps, the first ones included.

    Raises:
        ValueError: both or neither of ``num_steps`` and ``seconds``, or too few train scans for a batch.
    """
    if bool(num_steps) == bool(seconds):
        raise ValueError(f"give either num_steps or seconds, got {num_steps} and {seconds}")
    last = SKIPPED_STEPS + num_steps if num_steps else None
    done, started, begun = 0, time.perf_counter(), time.perf_counter()
    for images, labels in itertools.islice(_batches(cohort, batch_size), last):
        peer.step(images.to(device), labels.to(device))
        done += 1
        if done == SKIPPED_STEPS:
            synchronise(device)
            started = time.perf_counter()
        if seconds and time.perf_counter() - begun >= seconds and done > SKIPPED_STEPS:
            break
    synchronise(device)
    ended = time.perf_counter()
    rate = (done - SKIPPED_STEPS) * batch_size / (ended - started)
    return PeerRun(done, ended - begun, rate)


def num_parameters(network: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(parameter.numel() for parameter in network.parameters())


def _batches(cohort: Cohort, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    rows = cohort.rows("train")
    labels = torch.from_numpy(cohort.labels[rows].astype("int64"))
    data = TensorDataset(torch.from_numpy(cohort.images(rows)), labels)
    loader: DataLoader[Any] = DataLoader(data, batch_size=batch_size, shuffle=True, drop_last=True)
    if not len(loader):
        raise ValueError(f"{len(rows)} train scans do not fill a batch of {batch_size}")
    while True:
        yield from loader


def _autocast(device: torch.device, enabled: bool) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype=torch.float16) if enabled else contextlib.nullcontext()
