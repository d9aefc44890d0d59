"""The copy embedding brings altered copies near their source, and is a function of the image alone."""

from __future__ import annotations

import pytest
import torch

from models.privacy.copy_embedding import (
    POOLED,
    CopyEmbedding,
    _means,
    altered_copies,
    contrastive_loss,
    copies_in_pairs,
    embed,
    train_on_pairs,
)
from models.privacy.matching import flat_field


def prepare(images: torch.Tensor) -> torch.Tensor:
    return flat_field(images, sigma=4.0)


def smooth(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    small = torch.randn(count, 1, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(small, size=(28, 28), mode="bicubic").clamp(-1, 1)


def train(images: torch.Tensor, num_steps: int, losses: list[float] | None = None) -> CopyEmbedding:
    generator = torch.Generator().manual_seed(0)
    return train_on_pairs(
        copies_in_pairs(images, 64, generator),
        prepare,
        num_steps=num_steps,
        learning_rate=3e-3,
        temperature=0.1,
        generator=generator,
        on_step=None if losses is None else lambda _, loss: losses.append(loss),
    )


def rank_one(network: CopyEmbedding, images: torch.Tensor) -> float:
    copies = altered_copies(images, torch.Generator().manual_seed(9))
    similarity = embed(network, copies, prepare) @ embed(network, images, prepare).T
    return float((similarity.argmax(dim=1) == torch.arange(len(images))).float().mean())


def test_training_finds_altered_copies_of_images_it_never_saw() -> None:
    losses: list[float] = []
    trained = train(smooth(256), 60, losses)
    fresh = smooth(100, seed=5)
    torch.manual_seed(0)
    assert rank_one(trained, fresh) > rank_one(CopyEmbedding().eval(), fresh) + 0.1
    assert sum(losses[-5:]) < sum(losses[:5])


def test_the_same_generator_gives_the_same_weights_and_leaves_the_global_stream_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, second = train(smooth(64), 3), train(smooth(64), 3)
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_an_image_is_embedded_alike_alone_and_in_a_batch_as_a_unit_vector() -> None:
    network, images = CopyEmbedding().eval(), smooth(9)
    together = embed(network, images, prepare)
    alone = torch.cat([embed(network, images[i : i + 1], prepare) for i in range(9)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together.norm(dim=1), torch.ones(9), atol=1e-5)


def test_brightness_and_contrast_say_nothing() -> None:
    network, images = CopyEmbedding().eval(), smooth(4)
    changed = embed(network, 0.5 * images + 0.2, prepare)
    assert torch.allclose(changed, embed(network, images, prepare), atol=1e-3)


@pytest.mark.parametrize("size", [(7, 8), (9, 4), (5, 16)])
def test_an_accelerator_pools_as_a_processor(size: tuple[int, int]) -> None:
    features = torch.randn(3, 2, *size, generator=torch.Generator().manual_seed(0))
    down, across = _means(size[0]), _means(size[1])
    expected = torch.nn.functional.adaptive_avg_pool2d(features, POOLED)
    torch.testing.assert_close(down @ features @ across.T, expected)


def test_a_processor_tells_every_loss() -> None:
    losses: list[float] = []
    train(smooth(64), 5, losses)
    assert len(set(losses)) == 5


def test_the_loss_is_lowest_when_each_view_is_nearest_to_its_own() -> None:
    vectors = torch.nn.functional.normalize(torch.eye(8), dim=1)
    assert contrastive_loss(vectors, vectors, 0.1) < contrastive_loss(vectors, vectors.roll(1, 0), 0.1)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="images"):
        train(smooth(1), 1)
    with pytest.raises(ValueError, match="width"):
        CopyEmbedding(width=7)


def test_a_training_that_is_cut_short_ends_with_a_rate_of_zero_and_one_that_is_not_is_as_planned() -> None:
    def trained(replanned: dict[int, int]) -> tuple[int, CopyEmbedding]:
        generator, steps = torch.Generator().manual_seed(0), list[int]()

        def on_step(step: int, _loss: float) -> int | None:
            steps.append(step)
            return replanned.get(step)

        network = train_on_pairs(
            copies_in_pairs(smooth(32), 16, generator), prepare, num_steps=12, learning_rate=3e-3,
            temperature=0.1, generator=generator, on_step=on_step,
        )  # fmt: skip
        return len(steps), network

    def difference(one: CopyEmbedding, other: CopyEmbedding) -> float:
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        return max(float((a - b).detach().abs().max()) for a, b in pairs)

    (whole, plain), (same, kept) = trained({}), trained({3: 12})
    assert (whole, same) == (12, 12) and difference(plain, kept) == 0.0
    assert trained({3: 6})[0] == 6 and trained({3: 4})[0] == 4
    # The last step of a cut training changes little: most of the cosine lies behind it.
    five, six = trained({3: 6, 4: 5})[1], trained({3: 6})[1]
    assert 0.0 < difference(five, six) < 1.5e-3
