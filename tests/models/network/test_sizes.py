"""Every named network can be built, attends where it pays, and grows with its name."""

from __future__ import annotations

from typing import get_args

import pytest

from models.network.sizes import NetworkSize, network_layers
from models.network.spec import NetworkSpec

SIZES = get_args(NetworkSize)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [8, 28, 32, 64, 128, 256, 512])
def test_every_size_makes_a_valid_network(size: NetworkSize, side: int) -> None:
    spec = NetworkSpec(image_size=(side, side), num_classes=2, **network_layers((side, side), size))
    positions = -(-side // spec.multiple) * spec.multiple // spec.patch_size
    for level, attends in enumerate(spec.attention):
        if attends:
            assert positions // 2**level <= 16


def test_the_longer_side_decides() -> None:
    assert network_layers((20, 64), "small") == network_layers((64, 64), "small")


def test_too_large_images_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="image_size"):
        network_layers((5000, 64), "small")
