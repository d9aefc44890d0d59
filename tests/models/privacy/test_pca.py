"""What is left of an image after heavy noise and a new drawing of the rest still names its source."""

from __future__ import annotations

import pytest
import torch

from models.privacy.pca import principal_components


def gaussian(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images whose 256 pixels are Gaussian with falling variance, and the basis they vary in."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(256, 256, generator=torch.Generator().manual_seed(0)))[0]
    variance = 20.0 / (1 + torch.arange(256.0)) ** 1.5
    return torch.randn(count, 256, generator=generator) * variance.sqrt() @ basis.T, basis


def noised_and_drawn_anew(rows: torch.Tensor, basis: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return draws from the exact posterior of Gaussian images given their noised versions."""
    generator = torch.Generator().manual_seed(9)
    variance = 20.0 / (1 + torch.arange(256.0)) ** 1.5
    seen = rows @ basis + sigma * torch.randn(rows.shape, generator=generator)
    mean = seen * variance / (variance + sigma**2)
    spread = (variance * sigma**2 / (variance + sigma**2)).sqrt()
    return (mean + spread * torch.randn(rows.shape, generator=generator)) @ basis.T


def test_a_source_is_found_among_hundreds_after_its_details_were_drawn_anew() -> None:
    rows, basis = gaussian(600, 1)
    images = rows.reshape(-1, 1, 16, 16)
    copies = noised_and_drawn_anew(rows[:200], basis, 0.5).reshape(-1, 1, 16, 16)
    features = principal_components(images, 0.5)
    found = (features(copies) @ features(images).T).argmax(dim=1)
    by_components = float((found == torch.arange(200)).float().mean())
    assert by_components > 0.85  # by chance 1 / 600


def test_features_are_unit_vectors_of_few_components_at_any_size() -> None:
    images = torch.rand((40, 1, 48, 40), generator=torch.Generator().manual_seed(3)) * 2 - 1
    features = principal_components(images, 0.4)
    assert features.size == (32, 27)
    found = features(images)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(40))
    assert 8 <= found.shape[1] < 40
    assert principal_components(images, 100.0)(images).shape == (40, 8)


@pytest.mark.parametrize(("count", "noise", "named"), [(1, 0.3, "images"), (5, 0.0, "noise")])
def test_wrong_arguments_are_named(count: int, noise: float, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        principal_components(torch.zeros(count, 1, 16, 16), noise)
