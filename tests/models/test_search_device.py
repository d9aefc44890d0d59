"""What is searched on an accelerator stays there: no step of it meets a tensor on the CPU.

The meta device stands for one, whose tensors have no values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.components import Components
from models.copy_embedding import CopyEmbedding, embed
from models.matching import (
    Alignments,
    aligned_similarity,
    coarse_similarity,
    flat_field,
    noise_gain,
    noise_variance,
)
from models.partial_copies import blend_isolation, half_similarity

TRIED = Alignments(2, (0.9, 1.0), (-10.0, 0.0), sigma=4.0)
COPYING = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
CUDA = pytest.param(
    torch.device("cuda"), marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
)


class OneDevice(TorchDispatchMode):
    """Refuses an operation on tensors of two devices, as an accelerator does; copying is allowed."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if len({leaf.device.type for leaf in given}) > 1 and func not in COPYING:
            raise RuntimeError(f"{func} on two devices")
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=[pytest.param(torch.device("meta")), CUDA], ids=str)
def images(request: pytest.FixtureRequest) -> Iterator[torch.Tensor]:
    """Return six images on a device that is not the CPU."""
    drawn = torch.rand(6, 1, 24, 24, generator=torch.Generator().manual_seed(0)).to(request.param)
    with OneDevice():
        yield drawn


def test_two_devices_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(RuntimeError, match="device"):
        images + torch.zeros(6, 1, 24, 24)
    with pytest.raises(RuntimeError, match="device"):
        images.flatten(1) @ torch.zeros(576, 3)


def test_similarities_stay_on_the_device_of_the_images(images: torch.Tensor) -> None:
    first, rough = next(iter(coarse_similarity(images, images, TRIED, block=4)))
    assert (first, rough.device.type, tuple(rough.shape)) == (0, images.device.type, (4, 6))
    pairs = rough.topk(2, dim=1).indices
    exact = aligned_similarity(images[:4], images, pairs, TRIED)
    gain = noise_gain(images, 0.1, TRIED)
    halves = next(iter(half_similarity(images, images, sigma=4.0)))[1]
    found = (exact, gain, noise_variance(images), *halves.values())
    assert {value.device.type for value in found} == {images.device.type}


def test_blends_embedding_and_components_stay_on_the_device_of_the_images(images: torch.Tensor) -> None:
    codes = torch.zeros(6, dtype=torch.int64, device=images.device)
    patients = torch.arange(6) // 2
    _, isolation = next(
        iter(blend_isolation(images, images, patients=patients, in_train=patients < 2, own=codes, sigma=4.0))
    )
    network = CopyEmbedding().to(images.device)
    vectors = embed(network, images, lambda batch: flat_field(batch, sigma=4.0))
    components = Components(
        (24, 24), torch.zeros(576, device=images.device), torch.zeros(576, 8, device=images.device)
    )
    found = (isolation, vectors, components(images))
    assert {value.device.type for value in found} == {images.device.type}
