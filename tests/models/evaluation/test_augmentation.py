"""Light augmentation moves by whole pixels; strong augmentation mixes targets in proportion."""

from __future__ import annotations

import pytest
import torch

from models.evaluation.augmentation import LIGHT, LIGHT_SHIFT, Augmentation, light, mixed, strong


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dots(count: int, size: int = 25) -> torch.Tensor:
    images = torch.full((count, 1, size, size), -1.0)
    images[:, 0, size // 2, size // 2] = 1.0
    return images


def test_light_augmentation_shifts_by_whole_pixels_within_its_limit() -> None:
    moved = light(dots(300), seeded())
    at = moved[:, 0].flatten(1).argmax(dim=1)
    largest = round(LIGHT_SHIFT * 25)
    expected = set(range(12 - largest, 12 + largest + 1))
    assert set((at // 25).tolist()) == set((at % 25).tolist()) == expected


def test_none_changes_nothing() -> None:
    images, targets = torch.randn(4, 1, 16, 16), torch.eye(4)
    same = Augmentation("none").apply(images, targets, seeded())
    assert torch.equal(same[0], images) and torch.equal(same[1], targets)


@pytest.mark.parametrize("size", [(28, 28), (32, 20)])
def test_strong_augmentation_changes_every_image_and_stays_near_the_range(size: tuple[int, int]) -> None:
    images = torch.rand(64, 1, *size, generator=seeded()) * 2 - 1
    found = strong(images, 1.0, seeded(1))
    assert found.shape == images.shape and bool(found.isfinite().all())
    assert bool((found - images).abs().flatten(1).amax(1).gt(0.05).all())
    assert float(found.abs().max()) < 2.5


def test_a_weaker_strength_changes_less() -> None:
    rows = torch.linspace(-1, 1, 28)
    images = (rows[None, :] * rows[:, None]).expand(256, 1, 28, 28)
    changes = [float((strong(images, s, seeded(2)) - images).abs().mean()) for s in (0.1, 0.5, 1.0, 2.0)]
    assert changes == sorted(changes) and changes[0] < 0.3 * changes[-1]


def test_equal_generators_give_equal_batches() -> None:
    images, targets = torch.rand(16, 1, 16, 16), torch.eye(2).repeat(8, 1)
    first, again = (Augmentation("strong").apply(images, targets, seeded(3)) for _ in range(2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


def test_mixing_takes_as_much_of_a_target_as_of_its_image() -> None:
    """Images of one value each: the mean of a mixed image tells the shares of its two sources."""
    count, kinds = 6, set()
    images = torch.arange(count).float()[:, None, None, None].expand(count, 1, 20, 20)
    for seed in range(60):
        found, targets = mixed(images, torch.eye(count), seeded(seed))
        assert torch.allclose(targets.sum(1), torch.ones(count))
        assert torch.allclose(found.mean(dim=(1, 2, 3)), targets @ torch.arange(count).float(), atol=1e-4)
        cut = bool((found.flatten(1).std(1) > 1e-4).any())
        kinds.add("none" if torch.equal(targets, torch.eye(count)) else "CutMix" if cut else "MixUp")
    assert kinds == {"none", "CutMix", "MixUp"}


def test_an_unknown_finding_of_either_image_stays_unknown() -> None:
    targets = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    for seed in range(20):
        _, found = mixed(torch.rand(2, 1, 8, 8), targets, seeded(seed))
        assert bool(found[:, 1].isnan().any()) and not bool(found[:, 0].isnan().any())


@pytest.mark.parametrize(("wrong", "name"), [({"kind": "wild"}, "kind"), ({"strength": 0.0}, "strength")])
def test_wrong_values_are_named(wrong: dict[str, object], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Augmentation(**wrong)  # type: ignore[arg-type]
    assert LIGHT.kind == "light"
