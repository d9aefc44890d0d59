"""The seeded training loop of downstream classifiers, on tensors only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.devices import has_bf16, to_device
from models.evaluation.augmentation import LIGHT, Augmentation
from models.evaluation.classifier import MIN_IMAGE_SIZE, Classifier, Name, build_classifier
from models.evaluation.pixels import in_model_range

CURVE_POINTS = 10
LEARNING_RATES: dict[str, float] = {"small_cnn": 4e-3, "resnet18": 1e-3, "densenet121": 1e-3}
"""Peak learning rate of each built-in classifier."""
_PARAMETER_AVERAGE_FRACTION = 0.2


@dataclass(frozen=True)
class ClassifierTraining:
    """Training settings of a classifier; all arms of a comparison use the same, except for the augmentation.

    Attributes:
        network: name of the built-in network.
        num_steps: number of optimiser steps.
        batch_size: images per step.
        learning_rate: peak of the one-cycle schedule (linear warm-up over a tenth, then cosine to zero); None
            is that of `LEARNING_RATES`.
        weight_decay: weight decay of AdamW, on convolution and linear weights only.
        dropout: share of pooled features dropped.
        balanced: draw all groups equally often; otherwise images are drawn with their own frequencies.
        augmentation: what is done to each batch.
        multi_label: targets are findings, any number of which may be present, instead of one class.
    """

    network: Name = "small_cnn"
    num_steps: int = 500
    batch_size: int = 64
    learning_rate: float | None = None
    weight_decay: float = 0.05
    dropout: float = 0.3
    balanced: bool = True
    augmentation: Augmentation = LIGHT
    multi_label: bool = False

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if self.peak <= 0 or self.weight_decay < 0:
            raise ValueError(
                f"learning_rate must be positive and weight_decay not negative, got {self.learning_rate}, "
                f"{self.weight_decay}"
            )

    @property
    def peak(self) -> float:
        """The peak learning rate."""
        return LEARNING_RATES[self.network] if self.learning_rate is None else self.learning_rate


@dataclass(frozen=True)
class TrainingPart:
    """Images that a share of the steps is trained on.

    Attributes:
        images: (N, 1, H, W) float32 in [-1, 1], or uint8 or uint16 pixels, H and W at least 8.
        targets: (N,) int64 classes in 0..num_classes-1, or (N, num_classes) float32 findings: 0, 1, or NaN
            for unknown ones.
        groups: (N,) int64 groups that a balanced training draws equally often; None takes the classes.
        share: share of the optimiser steps, relative to the other parts.
    """

    images: Tensor
    targets: Tensor
    groups: Tensor | None = None
    share: float = 1.0


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained network (in evaluation mode) with its learning curve.

    Attributes:
        network: the classifier.
        curve: column -> values at `CURVE_POINTS` points: `step`, `loss` (mean since the last point).
    """

    network: Classifier
    curve: dict[str, list[float]] = field(default_factory=dict)


def train_classifier(
    parts: Sequence[TrainingPart],
    *,
    num_classes: int,
    seed: int,
    training: ClassifierTraining | None = None,
    device: torch.device | str = "cpu",
    on_step: Callable[[int], None] | None = None,
) -> TrainedClassifier:
    """Train a classifier from scratch, on one set of images after the other.

    With one part this is plain training. With two, the first is for pre-training and the second for
    fine-tuning, at the learning rates of the second part of the same schedule.

    All random choices (weights, order, augmentation, dropout) are drawn from `seed`. On a CPU with a fixed
    number of threads, equal arguments give equal weights. The weights of the last fifth of the steps are
    averaged (Izmailov et al. 2018, arXiv 1803.05407), which halves the spread between seeds.

    Args:
        parts: what to train on, in this order.
        num_classes: width of the output.
        seed: seed of this classifier.
        training: training settings; None uses the defaults.
        device: device of the training.
        on_step: called after each step with the number of steps done; may raise to stop.

    Raises:
        ValueError: shapes or targets are invalid.
    """
    training = training or ClassifierTraining()
    for part in parts:
        _check(part, num_classes, multi_label=training.multi_label)
    device = torch.device(device)
    generator = torch.Generator().manual_seed(seed)
    size = (parts[0].images.shape[2], parts[0].images.shape[3])
    network = build_classifier(
        training.network, num_classes, size, dropout=training.dropout, generator=generator
    )
    network.to(device).train()
    optimiser = _optimiser(network, training)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, training.num_steps))
    average = _Average(network, first_step=int(training.num_steps * (1 - _PARAMETER_AVERAGE_FRACTION)))
    curve: dict[str, list[float]] = {"step": [], "loss": []}
    losses: list[Tensor] = []
    interval = max(training.num_steps // CURVE_POINTS, 1)
    step = 0
    for part, last in zip(parts, _last_steps(parts, training.num_steps), strict=True):
        images, targets = part.images.to(device), _soft(part.targets, num_classes).to(device)
        batches = _batches(part, training, generator)
        while step < last:
            step += 1
            chosen = to_device(next(batches), device)
            plain = in_model_range(images[chosen])
            batch, wanted = training.augmentation.apply(plain, targets[chosen], generator)
            keep = 1.0 - training.dropout
            # Dropout is drawn from this generator: torch's layer would use the global one.
            kept = torch.empty(len(chosen), network.width).bernoulli_(keep, generator=generator) / keep
            with torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device)):
                features = network.features(batch)
            logits = network.head(features.float() * to_device(kept, device))
            loss = _loss(logits, wanted, multi_label=training.multi_label)
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


def _last_steps(parts: Sequence[TrainingPart], num_steps: int) -> list[int]:
    """Return the step after which each part ends."""
    total, done, ends = sum(part.share for part in parts), 0.0, []
    for part in parts:
        done += part.share
        ends.append(round(num_steps * done / total))
    return ends


def _soft(targets: Tensor, num_classes: int) -> Tensor:
    return targets if targets.ndim == 2 else F.one_hot(targets, num_classes).float()


def _loss(logits: Tensor, targets: Tensor, *, multi_label: bool) -> Tensor:
    """Return the cross-entropy, over the known findings only with `multi_label`."""
    if not multi_label:
        return F.cross_entropy(logits, targets)
    known = ~targets.isnan()
    each = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num(0.0), reduction="none")
    return (each * known).sum() / known.sum().clamp_min(1)


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


def _optimiser(network: Classifier, training: ClassifierTraining) -> torch.optim.AdamW:
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": training.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=training.peak, fused=True)


def _rate(step: int, num_steps: int) -> float:
    warm_up = max(num_steps // 10, 1)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm_up) / max(num_steps - warm_up, 1)))


def _batches(
    part: TrainingPart, training: ClassifierTraining, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield row numbers (batch_size,) indefinitely, using all of a group (or set) before any row repeats."""
    count = len(part.targets)
    if not training.balanced:
        stream = _shuffled(torch.arange(count), generator)
        while True:
            yield torch.tensor([next(stream) for _ in range(training.batch_size)])
    groups = part.groups if part.groups is not None else part.targets
    streams = [_shuffled(torch.nonzero(groups == group)[:, 0], generator) for group in groups.unique()]
    turn = 0
    while True:
        rows = [next(streams[(turn + i) % len(streams)]) for i in range(training.batch_size)]
        turn += training.batch_size
        yield torch.tensor(rows)


def _shuffled(rows: Tensor, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from rows[torch.randperm(len(rows), generator=generator)].tolist()


def _check(part: TrainingPart, num_classes: int, *, multi_label: bool) -> None:
    images, targets = part.images, part.targets
    if images.ndim != 4 or images.shape[1] != 1 or min(images.shape[2:]) < MIN_IMAGE_SIZE:
        raise ValueError(f"images must be (N, 1, H, W) with sides of at least 8, got {tuple(images.shape)}")
    if multi_label:
        if targets.shape != (len(images), num_classes) or not targets.is_floating_point() or not len(targets):
            raise ValueError(
                f"targets must be float of shape ({len(images)}, {num_classes}), got {tuple(targets.shape)}"
            )
        if part.groups is None or part.groups.shape != images.shape[:1]:
            raise ValueError("targets of several findings need one group an image to be balanced by")
        return
    if targets.shape != images.shape[:1] or not len(targets) or targets.dtype != torch.int64:
        raise ValueError(f"targets must be int64 of shape ({len(images)},), got {tuple(targets.shape)}")
    if int(targets.min()) < 0 or int(targets.max()) >= num_classes:
        raise ValueError(f"targets must be in 0..{num_classes - 1}, got up to {int(targets.max())}")
