"""Each image starts from a seed and noise of its own, whatever else is made with it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.noise import candidate_seed, fresh_noise, initial_noise, stream_seed


def test_seeds_are_fixed_for_ever() -> None:
    """A golden value: changing the derivation would change every released image."""
    assert candidate_seed(0, 0, 0) == 3050167246347911421
    assert candidate_seed(7, 1, 123) == 5875272031543093680


def test_neighbouring_seeds_differ() -> None:
    seeds = {
        candidate_seed(run, label, index) for run in range(4) for label in range(4) for index in range(200)
    }
    assert len(seeds) == 4 * 4 * 200
    assert stream_seed(1, "batch", 2) != stream_seed(1, "pass", 2)
    assert stream_seed(1, "batch", 12) != stream_seed(1, "batch", 1, 2)


@given(st.integers(-(2**70), 2**70), st.integers(0, 10**6), st.integers(0, 10**9))
def test_seeds_stay_in_range(run_seed: int, label: int, index: int) -> None:
    assert 0 <= candidate_seed(run_seed, label, index) < 2**63


def test_noise_of_a_seed_does_not_depend_on_the_others() -> None:
    together = initial_noise([3, 2**62 + 1, 9], (1, 4, 4))
    assert torch.equal(together[1], initial_noise([2**62 + 1], (1, 4, 4))[0])
    assert together.dtype == torch.float32


def test_all_bits_of_a_seed_count() -> None:
    low, high = initial_noise([5, 5 + 2**40], (1, 8, 8))
    assert not torch.equal(low, high)


def test_noise_is_unit_normal() -> None:
    noise = initial_noise([candidate_seed(0, 0, index) for index in range(500)], (1, 16, 16))
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.01)
    flat = noise.flatten(1)
    assert float(torch.corrcoef(flat)[~torch.eye(500, dtype=torch.bool)].abs().max()) < 0.4


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="index"):
        candidate_seed(0, 0, -1)
    with pytest.raises(ValueError, match="label_index"):
        candidate_seed(0, -1, 0)
    with pytest.raises(ValueError, match="seeds"):
        initial_noise([2**63], (1,))


def test_fresh_noise_of_a_seed_and_step_does_not_depend_on_the_others() -> None:
    together, alone = fresh_noise([3, 2**62 + 1, 9], (1, 4, 4)), fresh_noise([2**62 + 1], (1, 4, 4))
    for step in (0, 1, 999):
        assert torch.equal(together(step)[1], alone(step)[0])
    # A function of the step: asked again, or in another order, it is the same.
    assert torch.equal(together(0)[1], alone(0)[0])
    assert together(0).shape == (3, 1, 4, 4)


def test_fresh_noise_repeats_neither_itself_nor_the_initial_noise() -> None:
    seeds = [candidate_seed(0, 0, index) for index in range(20)]
    fresh = fresh_noise(seeds, (1, 16, 16))
    rows = torch.cat([initial_noise(seeds, (1, 16, 16)), *[fresh(step) for step in range(10)]]).flatten(1)
    assert float(rows.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(rows.std()) == pytest.approx(1.0, abs=0.02)
    # 24,000 pairs of 256 values: chance stays below 5 / 16.
    assert float(torch.corrcoef(rows)[~torch.eye(len(rows), dtype=torch.bool)].abs().max()) < 0.35


def test_the_streams_of_fresh_noise_are_fixed_for_ever() -> None:
    """A golden value: changing the streams would change every image of a stochastic sampler."""
    values = fresh_noise([candidate_seed(0, 0, 0)], (2,))(7)
    torch.testing.assert_close(values, torch.tensor([[-0.56185603, -0.50437951]]))
