"""The specification of the network: what follows from the size of its images."""

from __future__ import annotations

import pytest

from models.network.spec import NetworkSpec


@pytest.mark.parametrize(
    ("image_size", "scale"),
    [((28, 28), 1.0), ((64, 64), 1.0), ((64, 128), 2.0), ((224, 224), 3.5), ((512, 512), 8.0)],
)
def test_noise_grows_with_the_longer_side_from_64_on(image_size: tuple[int, int], scale: float) -> None:
    assert NetworkSpec(image_size, 2).noise_scale == scale
