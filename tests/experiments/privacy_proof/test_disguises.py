"""Random disguises alter every copy, each by its own strength, and repeat with their seed."""

from __future__ import annotations

import pytest
import torch

from tests.experiments.privacy_proof.disguises import KINDS, SEEN, UNSEEN, disguised


def scans(count: int, size: tuple[int, int], seed: int) -> torch.Tensor:
    """Smooth images (count, 1, h, w) in [-1, 1] of 8 bits."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 6, 6, generator=generator) * 1.6 - 0.8
    fine = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
    return ((fine.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


@pytest.mark.parametrize("size", [(28, 28), (33, 40)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_alters_every_copy_within_the_range(kind: str, size: tuple[int, int]) -> None:
    images, others = scans(12, size, 1), scans(12, size, 2)
    made = disguised(images, others, torch.Generator().manual_seed(3), kinds=[kind])
    assert made.kinds == [(kind,)] * 12
    assert made.images.shape == images.shape and made.images.abs().max() <= 1
    changed = (made.images - images).abs().flatten(1)
    assert bool((changed.amax(dim=1) > 0.01).all())
    assert torch.equal(made.images, ((made.images + 1) * 127.5).round() / 127.5 - 1)
    again = disguised(images, others, torch.Generator().manual_seed(3), kinds=[kind])
    assert torch.equal(made.images, again.images)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ("mirrored", "upside down", "negative")]
)
def test_the_strength_is_each_copys_own(kind: str) -> None:
    same = scans(1, (28, 28), 1).expand(40, -1, -1, -1)
    other = scans(1, (28, 28), 2).expand(40, -1, -1, -1)
    made = disguised(same, other, torch.Generator().manual_seed(3), kinds=[kind]).images
    assert len(made.flatten(1).unique(dim=0)) > 1


def test_kinds_are_of_different_families_and_as_many_as_asked_for() -> None:
    images = scans(300, (16, 16), 1)
    made = disguised(images, scans(8, (16, 16), 2), torch.Generator().manual_seed(4), kinds=list(KINDS))
    numbers = [len(each) for each in made.kinds]
    assert {1, 2, 3} == set(numbers) and min(numbers.count(each) for each in (1, 2, 3)) > 70
    for each in made.kinds:
        assert len({KINDS[name].family for name in each}) == len(each)


def test_what_is_tuned_on_and_what_is_not_share_no_kind_and_have_every_family() -> None:
    assert not set(SEEN) & set(UNSEEN) and len(SEEN) + len(UNSEEN) == len(KINDS)
    for kinds in (SEEN, UNSEEN):
        assert len({KINDS[name].family for name in kinds}) == 5
    assert abs(len(SEEN) - len(UNSEEN)) <= 4


def test_too_few_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="4 other images"):
        disguised(scans(2, (16, 16), 1), scans(3, (16, 16), 2), torch.Generator(), kinds=["blur"])
