"""The small downstream classifier: network, seeded training loop and prediction, on tensors only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.devices import has_bf16, to_device

PREDICTION_BATCH = 256
CURVE_POINTS = 10
MIN_IMAGE_SIZE = 8
_PARAMETER_AVERAGE_FRACTION = 0.2


@dataclass(frozen=True)
class ClassifierTraining:
    """Training settings of a classifier; all arms of a comparison use the same.

    Attributes:
        num_steps: number of optimiser steps.
        batch_size: images per step.
        learning_rate: peak of the one-cycle schedule (linear warm-up over a tenth, then cosine to zero).
        weight_decay: weight decay of AdamW, on convolution and linear weights only.
        dropout: share of pooled features dropped.
        balanced: draw all classes equally often; otherwise images are drawn with their own frequencies.
        max_shift: largest shift in each direction, as a share of the side (edges are repeated).
        brightness: largest change of brightness, added, in units of the range [-1, 1].
        contrast: largest relative change of contrast.
    """

    num_steps: int = 500
    batch_size: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    dropout: float = 0.3
    balanced: bool = True
    max_shift: float = 0.08
    brightness: float = 0.2
    contrast: float = 0.2

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("max_shift", "brightness", "contrast", "dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.learning_rate <= 0 or self.weight_decay < 0:
            raise ValueError(
                f"learning_rate must be positive and weight_decay not negative, got {self.learning_rate}, "
                f"{self.weight_decay}"
            )


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained network (in evaluation mode) with its learning curve.

    Attributes:
        network: the classifier.
        curve: column -> values at `CURVE_POINTS` points: `step`, `loss` (mean since the last point).
    """

    network: SmallCNN
    curve: dict[str, list[float]] = field(default_factory=dict)


class _Stage(nn.Module):
    """Convolution, pooling, batch norm, ReLU.

    Pooling first leaves a quarter of the pixels for the norm, which saves a third of the step on a CPU. With
    a positive norm weight, max-pooling commutes with norm and ReLU.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        # Activations follow this layout, in which pooling is eight times faster on a CPU. `contiguous` would
        # not change a one-channel weight, because both layouts describe it.
        weight = self.convolution.weight
        weight.data = weight.data.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(F.max_pool2d(self.convolution(x), kernel_size=2)))


class SmallCNN(nn.Module):
    """Three 3x3 convolution stages (32, 64, 128 channels), global average pooling, dropout, a linear layer.

    Args:
        num_classes: number of classes, at least 2.
        dropout: share of pooled features dropped in training.
        generator: random generator of the initial weights; None uses torch's global generator.
    """

    widths = (32, 64, 128)

    def __init__(
        self, num_classes: int, dropout: float = 0.3, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.num_classes = num_classes
        channels = (1, *self.widths)
        self.stages = nn.Sequential(*(_Stage(a, b) for a, b in zip(channels, self.widths, strict=False)))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        bound = 1.0 / math.sqrt(self.widths[-1])
        nn.init.uniform_(self.head.weight, -bound, bound, generator=generator)
        nn.init.zeros_(self.head.bias)

    def features(self, images: Tensor) -> Tensor:
        """Return globally pooled features (N, 128) of images (N, 1, H, W) in [-1, 1]."""
        return self.stages(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) of images (N, 1, H, W) in [-1, 1]."""
        return self.head(self.dropout(self.features(images)))


def train_classifier(
    images: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    seed: int,
    training: ClassifierTraining | None = None,
    device: torch.device | str = "cpu",
    on_step: Callable[[int], None] | None = None,
) -> TrainedClassifier:
    """Train a `SmallCNN` from scratch.

    All random choices (weights, order, augmentation, dropout) are drawn from `seed`. On a CPU with a fixed
    number of threads, equal arguments give equal weights. The weights of the last fifth of the steps are
    averaged (Izmailov et al. 2018, arXiv 1803.05407), which halves the spread between seeds.

    Args:
        images: (N, 1, H, W) float32 in [-1, 1], H and W at least 8.
        labels: (N,) int64 in 0..num_classes-1; with `balanced`, classes without images are skipped.
        num_classes: width of the output.
        seed: seed of this classifier.
        training: training settings; None uses the defaults.
        device: device of the training.
        on_step: called after each step with the number of steps done; may raise to stop.

    Raises:
        ValueError: shapes or labels are invalid.
    """
    training = training or ClassifierTraining()
    _check(images, labels, num_classes)
    device = torch.device(device)
    generator = torch.Generator().manual_seed(seed)
    network = SmallCNN(num_classes, training.dropout, generator)
    network.to(device).train()
    images, labels = images.to(device), labels.to(device)
    optimiser = _optimiser(network, training)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, training.num_steps))
    batches = _batches(labels.cpu(), training, generator)
    average = _Average(network, first_step=int(training.num_steps * (1 - _PARAMETER_AVERAGE_FRACTION)))
    curve: dict[str, list[float]] = {"step": [], "loss": []}
    losses: list[Tensor] = []
    interval = max(training.num_steps // CURVE_POINTS, 1)
    for step in range(1, training.num_steps + 1):
        chosen = to_device(next(batches), device)
        batch = augment(images[chosen], training, generator)
        keep = 1.0 - training.dropout
        # Dropout is drawn from this generator: torch's layer would use the global one.
        kept = torch.empty(len(chosen), network.widths[-1]).bernoulli_(keep, generator=generator) / keep
        with torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device)):
            features = network.features(batch)
        logits = network.head(features.float() * to_device(kept, device))
        loss = F.cross_entropy(logits, labels[chosen])
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        average.update(step)
        losses.append(loss.detach())
        if step % interval == 0 or step == training.num_steps:
            curve["step"].append(float(step))
            curve["loss"].append(float(torch.stack(losses).mean()))
            losses = []
        if on_step is not None:
            on_step(step)
    average.apply()
    return TrainedClassifier(network.eval(), curve)


@torch.no_grad()
def predict_probabilities(network: SmallCNN, images: Tensor) -> Tensor:
    """Return class probabilities (N, num_classes) float32 on the CPU of images (N, 1, H, W) in [-1, 1]."""
    network.eval()
    device = network.head.weight.device
    parts = [
        torch.softmax(network(batch.to(device)), dim=1).cpu() for batch in images.split(PREDICTION_BATCH)
    ]
    return torch.cat(parts) if parts else torch.empty(0, network.num_classes)


def augment(images: Tensor, training: ClassifierTraining, generator: torch.Generator) -> Tensor:
    """Shift images (n, 1, H, W) and change brightness and contrast, each by its own random amount."""
    n, _, height, width = images.shape
    device = images.device
    largest = round(training.max_shift * min(height, width))
    if largest:
        rows, columns = to_device(torch.randint(0, 2 * largest + 1, (2, n, 1), generator=generator), device)
        padded = F.pad(images, (largest,) * 4, mode="replicate")[:, 0]
        y = (torch.arange(height, device=device) + rows)[:, :, None]
        x = (torch.arange(width, device=device) + columns)[:, None, :]
        images = padded[torch.arange(n, device=device)[:, None, None], y, x][:, None]
    if training.brightness or training.contrast:
        noise = torch.rand(2, n, 1, 1, 1, generator=generator).mul_(2.0).sub_(1.0)
        noise = to_device(noise, device)
        images = images * (1.0 + training.contrast * noise[0]) + training.brightness * noise[1]
    return images


class _Average:
    """Running mean of the weights and of the batch-norm statistics from `first_step` on."""

    def __init__(self, network: nn.Module, first_step: int) -> None:
        self._live = [t for t in network.state_dict().values() if t.is_floating_point()]
        self._mean = [torch.zeros_like(t) for t in self._live]
        self._first_step, self._count = first_step, 0

    def update(self, step: int) -> None:
        if step > self._first_step:
            self._count += 1
            torch._foreach_lerp_(self._mean, self._live, 1.0 / self._count)

    def apply(self) -> None:
        with torch.no_grad():
            for live, mean in zip(self._live, self._mean, strict=True):
                live.copy_(mean)


def _optimiser(network: SmallCNN, training: ClassifierTraining) -> torch.optim.AdamW:
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": training.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)


def _rate(step: int, num_steps: int) -> float:
    warm_up = max(num_steps // 10, 1)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm_up) / max(num_steps - warm_up, 1)))


def _batches(labels: Tensor, training: ClassifierTraining, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield row numbers (batch_size,) indefinitely, using all of a class (or set) before any row repeats."""
    if not training.balanced:
        stream = _shuffled(torch.arange(len(labels)), generator)
        while True:
            yield torch.tensor([next(stream) for _ in range(training.batch_size)])
    present = [torch.nonzero(labels == label)[:, 0] for label in labels.unique()]
    streams = [_shuffled(rows, generator) for rows in present]
    turn = 0
    while True:
        rows = [next(streams[(turn + i) % len(streams)]) for i in range(training.batch_size)]
        turn += training.batch_size
        yield torch.tensor(rows)


def _shuffled(rows: Tensor, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from rows[torch.randperm(len(rows), generator=generator)].tolist()


def _check(images: Tensor, labels: Tensor, num_classes: int) -> None:
    if images.ndim != 4 or images.shape[1] != 1 or min(images.shape[2:]) < MIN_IMAGE_SIZE:
        raise ValueError(f"images must be (N, 1, H, W) with sides of at least 8, got {tuple(images.shape)}")
    if labels.shape != images.shape[:1] or not len(labels) or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 of shape ({len(images)},), got {tuple(labels.shape)}")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(f"labels must be in 0..{num_classes - 1}, got up to {int(labels.max())}")
