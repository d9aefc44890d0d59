"""Downstream classifiers: the small CNN, and ResNet-18 and DenseNet-121 from MONAI; on tensors only."""

from __future__ import annotations

import itertools
import math
import threading
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.evaluation.pixels import in_model_range

PREDICTION_BATCH = 256
MIN_IMAGE_SIZE = 8
SMALL_IMAGE = 64
"""Longest side in pixels up to which ResNet-18 gets the stem for small images, as in MedMNIST's protocol
(Yang et al. 2023, doi 10.1038/s41597-022-01721-8): a 3x3 convolution without stride or pooling."""

Name = Literal["small_cnn", "resnet18", "densenet121"]
SMALLEST_SIDES: dict[Name, int] = {"small_cnn": MIN_IMAGE_SIZE, "resnet18": MIN_IMAGE_SIZE, "densenet121": 31}
"""Shortest side in pixels that each network can read: DenseNet-121 halves it five times."""

_global_random_state = threading.Lock()


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


LAST_WIDTHS = (32, 64, 128)
"""Channels of the last three stages of `SmallCNN`, the only ones for images of up to `SMALL_IMAGE` pixels."""
EARLY_WIDTH = 16
"""Channels of each stage before them, which larger images have: each halves the side, until `SMALL_IMAGE` or
less is left. With the last three alone, a feature sees 22 pixels a side: at 224 that is texture, and neither
heart nor lung."""


def stage_widths(image_size: tuple[int, int]) -> tuple[int, ...]:
    """Return the channels of every stage of `SmallCNN` for images of (height, width) pixels."""
    early = max(0, math.ceil(math.log2(max(image_size) / SMALL_IMAGE)))
    return (*(EARLY_WIDTH,) * early, *LAST_WIDTHS)


class SmallCNN(nn.Module):
    """Stages of a 3x3 convolution and pooling, global average pooling, dropout, a linear layer.

    Args:
        num_classes: number of outputs, at least 1.
        dropout: share of pooled features dropped in training.
        generator: random generator of the initial weights; None uses torch's global generator.
        widths: channels of each stage (`stage_widths`).
    """

    def __init__(
        self,
        num_classes: int,
        dropout: float = 0.3,
        generator: torch.Generator | None = None,
        widths: tuple[int, ...] = LAST_WIDTHS,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes, self.widths, self.width = num_classes, widths, widths[-1]
        self.stages = nn.Sequential(*(_Stage(a, b) for a, b in itertools.pairwise((1, *widths))))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        bound = 1.0 / math.sqrt(self.width)
        nn.init.uniform_(self.head.weight, -bound, bound, generator=generator)
        nn.init.zeros_(self.head.bias)

    def features(self, images: Tensor) -> Tensor:
        """Return globally pooled features (N, 128) of images (N, 1, H, W) in [-1, 1]."""
        return self.stages(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) of images (N, 1, H, W) in [-1, 1]."""
        return self.head(self.dropout(self.features(images)))


class MonaiClassifier(nn.Module):
    """A classifier of MONAI with the interface of `SmallCNN`: pooled features, then a linear head.

    Args:
        trunk: network that maps images (N, 1, H, W) to features (N, width).
        width: number of features.
        num_classes: number of outputs.
        dropout: share of features dropped in training.
    """

    def __init__(self, trunk: nn.Module, width: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.trunk, self.width, self.num_classes = trunk, width, num_classes
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Return pooled features (N, width) of images (N, 1, H, W) in [-1, 1]."""
        found: Tensor = self.trunk(images)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) of images (N, 1, H, W) in [-1, 1]."""
        return self.head(self.dropout(self.features(images)))


Classifier = SmallCNN | MonaiClassifier


def build_classifier(
    name: Name, num_classes: int, image_size: tuple[int, int], *, dropout: float, generator: torch.Generator
) -> Classifier:
    """Return a new classifier with weights drawn from `generator`.

    Args:
        name: `small_cnn`, `resnet18` (He et al. 2016, arXiv 1512.03385) or `densenet121` (Huang et al. 2017,
            arXiv 1608.06993).
        num_classes: number of outputs, at least 1.
        image_size: (height, width); decides on the stem of ResNet-18 and the stages of the small CNN.
        dropout: share of pooled features dropped in training.
        generator: CPU generator of the initial weights.

    Raises:
        ValueError: unknown name, no output, or an image size below `SMALLEST_SIDES`.
    """
    if name not in SMALLEST_SIDES:
        raise ValueError(f"name must be {', '.join(SMALLEST_SIDES)}, got {name!r}")
    if min(image_size) < SMALLEST_SIDES[name]:
        raise ValueError(
            f"{name} reads images of at least {SMALLEST_SIDES[name]} pixels a side, got {image_size}"
        )
    if name == "small_cnn":
        return SmallCNN(num_classes, dropout, generator, stage_widths(image_size))
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    from monai.networks.nets.densenet import DenseNet121
    from monai.networks.nets.resnet import ResNet

    # MONAI's networks draw their weights from the global random state, which is restored afterwards.
    with _global_random_state, torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        trunk: nn.Module
        if name == "densenet121":
            width = 1024
            trunk = DenseNet121(spatial_dims=2, in_channels=1, out_channels=2)
            trunk.class_layers.out = nn.Identity()
        else:
            small = max(image_size) <= SMALL_IMAGE
            width = 512
            trunk = ResNet(
                "basic",
                [2, 2, 2, 2],
                [64, 128, 256, width],
                spatial_dims=2,
                n_input_channels=1,
                conv1_t_size=3 if small else 7,
                conv1_t_stride=1 if small else 2,
                no_max_pool=small,
                feed_forward=False,
            )
        return MonaiClassifier(trunk, width, num_classes, dropout)


@torch.no_grad()
def predict_probabilities(network: Classifier, images: Tensor, *, multi_label: bool = False) -> Tensor:
    """Return probabilities (N, num_classes) float32 on the CPU of images (N, 1, H, W).

    The images are float32 in [-1, 1], or uint8 or uint16 pixels. The probabilities add up to 1 over the
    classes or, with `multi_label`, are those of each finding by itself.
    """
    network.eval()
    device = network.head.weight.device
    parts = []
    for batch in images.split(PREDICTION_BATCH):
        logits = network(in_model_range(batch.to(device))).float()
        parts.append((torch.sigmoid(logits) if multi_label else torch.softmax(logits, dim=1)).cpu())
    return torch.cat(parts) if parts else torch.empty(0, network.num_classes)
