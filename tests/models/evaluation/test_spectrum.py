"""Power by octaves: known waves, contrast, blur and size."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from models.evaluation.spectrum import num_octaves, octave_power


def wave(cycles: float, side: int = 64, angle: float = 0.0) -> torch.Tensor:
    """Return a plane wave of unit amplitude, (1, 1, side, side)."""
    place = torch.arange(side) / side
    along = math.cos(angle) * place[None, :] + math.sin(angle) * place[:, None]
    return torch.cos(2 * math.pi * cycles * along)[None, None]


@pytest.mark.parametrize("angle", [0.0, 0.7, math.pi / 2])
@pytest.mark.parametrize(("cycles", "octave"), [(24, 0), (12, 1), (6, 2)])
def test_a_wave_has_its_power_in_its_octave_whatever_its_direction(
    cycles: float, octave: int, angle: float
) -> None:
    power = octave_power(wave(cycles, angle=angle))[0]
    assert len(power) == num_octaves(64, 64) == 4
    assert int(power.argmax()) == octave and power[octave] > 0.9 * power.sum()
    # A wave of unit amplitude has a mean square of a half; the window leaves it as it is.
    assert power[octave] == pytest.approx(0.5, rel=0.1)


def test_white_noise_has_power_by_area_and_contrast_counts_squared() -> None:
    noise = torch.randn(64, 1, 48, 80, generator=torch.Generator().manual_seed(0))
    power = octave_power(noise).mean(dim=0)
    areas = [math.pi * (0.25**number) * (0.25 - 0.0625) for number in range(3)]
    torch.testing.assert_close(power, torch.tensor(areas), rtol=0.06, atol=0.0)
    torch.testing.assert_close(octave_power(noise * 2 + 5), octave_power(noise) * 4, rtol=1e-3, atol=1e-6)


def test_what_was_enlarged_lacks_the_finest_octave() -> None:
    fine = torch.randn(8, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    small = functional.avg_pool2d(fine, 4)
    enlarged = functional.interpolate(small, scale_factor=4, mode="bicubic", align_corners=False)
    ratio = octave_power(enlarged).mean(dim=0) / octave_power(fine).mean(dim=0)
    assert ratio[0] < 0.01 < 0.3 < ratio[2]


def test_the_power_of_an_image_does_not_depend_on_the_others() -> None:
    images = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(octave_power(images)[3:4], octave_power(images[3:4]))
    assert octave_power(images[:0]).shape == (0, num_octaves(28, 28))
