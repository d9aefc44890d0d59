"""A feature encoder for comparing sets of images: pooled activations of a small trained network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.evaluation.classifier import PREDICTION_BATCH, SmallCNN
from models.evaluation.pixels import in_model_range

_MIN_SCALE = 1e-3


@dataclass(frozen=True)
class FeatureEncoder:
    """Maps images to standardised features: the pooled outputs of all stages of the network.

    Early stages respond to texture and blur, the last one to shape. The last stage alone would collapse onto
    the classes that it was trained to distinguish, and hide differences within a class.

    Attributes:
        network: the trained network (in evaluation mode).
        mean: (F,) mean of the features over the images that the encoder was fitted to.
        scale: (F,) standard deviation of the features over these images.
    """

    network: SmallCNN
    mean: Tensor
    scale: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Return features (N, F) float32 on the CPU of images (N, 1, H, W), float32 in [-1, 1] or pixels."""
        return (_unscaled(self.network, images) - self.mean) / self.scale

    @property
    def num_features(self) -> int:
        """Number of features F: 224 for images of up to 64 pixels."""
        return sum(self.network.widths)

    @property
    def digest(self) -> str:
        """sha256 (hex) of all tensors; features of encoders with different digests are not comparable."""
        state = hashlib.sha256()
        for name, tensor in sorted(encoder_tensors(self).items()):
            state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            state.update(tensor.contiguous().numpy().tobytes())
        return state.hexdigest()


def fit_encoder(network: SmallCNN, images: Tensor) -> FeatureEncoder:
    """Return an encoder whose features are standardised over images (N, 1, H, W), in [-1, 1] or pixels.

    Raises:
        ValueError: fewer than 2 images.
    """
    if len(images) < 2:
        raise ValueError(f"images must hold at least 2 images, got {len(images)}")
    network.eval()
    raw = _unscaled(network, images)
    return FeatureEncoder(network, raw.mean(dim=0), raw.std(dim=0).clamp_min(_MIN_SCALE))


def encoder_tensors(encoder: FeatureEncoder) -> dict[str, Tensor]:
    """Return all tensors of the encoder by name, on the CPU."""
    state = {f"network.{name}": value.cpu() for name, value in encoder.network.state_dict().items()}
    return {**state, "mean": encoder.mean, "scale": encoder.scale}


def encoder_from_tensors(tensors: Mapping[str, Tensor]) -> FeatureEncoder:
    """Create an encoder from `encoder_tensors`.

    Raises:
        ValueError: a tensor is missing or has the wrong shape.
    """
    head = tensors.get("network.head.weight")
    weights = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
    kernels = [t for name, t in sorted(weights.items()) if name.endswith("convolution.weight") and t.ndim]
    widths = tuple(len(kernel) for kernel in kernels)
    if head is None or head.ndim != 2 or not widths or "mean" not in tensors or "scale" not in tensors:
        raise ValueError("tensors must be those of a feature encoder")
    network = SmallCNN(head.shape[0], widths=widths)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError("tensors must be those of a feature encoder") from error
    if tensors["mean"].shape != (sum(widths),) or tensors["scale"].shape != (sum(widths),):
        raise ValueError(f"mean and scale must have shape ({sum(widths)},)")
    return FeatureEncoder(network.eval(), tensors["mean"], tensors["scale"])


@torch.no_grad()
def _unscaled(network: SmallCNN, images: Tensor) -> Tensor:
    parts = [_pooled(network, batch) for batch in images.split(PREDICTION_BATCH)]
    return torch.cat(parts) if parts else torch.empty(0, sum(network.widths))


def _pooled(network: SmallCNN, images: Tensor) -> Tensor:
    hidden = in_model_range(images.to(network.head.weight.device))
    pooled = []
    for stage in network.stages:
        hidden = stage(hidden)
        pooled.append(hidden.mean(dim=(2, 3)))
    return torch.cat(pooled, dim=1).float().cpu()
