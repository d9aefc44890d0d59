"""The weight average forgets at the stated half-life, and faster early on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.ema import ExponentialMovingAverage


def test_half_life_halves_the_old_weights_share() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = ExponentialMovingAverage(model, half_life=100.0, ramp_share=None)
    nn.init.ones_(model.weight)
    for step in range(10):
        ema.update(step * 10, 10)
    assert float(ema.model.weight) == pytest.approx(0.5)


def test_first_update_forgets_the_initial_weights() -> None:
    model = nn.Linear(2, 2)
    ema = ExponentialMovingAverage(model, half_life=1e9, ramp_share=0.1)
    with torch.no_grad():
        model.weight.fill_(3.0)
    ema.update(0, 64)
    assert torch.equal(ema.model.weight, model.weight)


def test_ramp_limits_the_half_life_until_it_is_reached() -> None:
    ema = ExponentialMovingAverage(nn.Linear(1, 1), half_life=1000.0, ramp_share=0.1)
    assert ema.decay(1000, 100) == pytest.approx(0.5)
    assert ema.decay(10_000, 1000) == pytest.approx(0.5)
    assert ema.decay(10**9, 1000) == pytest.approx(0.5)
    decays = [ema.decay(seen, 10) for seen in range(0, 20_000, 500)]
    assert decays == sorted(decays)


def test_update_is_a_weighted_mean_and_leaves_the_model_alone() -> None:
    model = nn.Linear(3, 3)
    before = model.weight.detach().clone()
    ema = ExponentialMovingAverage(model, half_life=50.0, ramp_share=None)
    with torch.no_grad():
        model.weight.add_(1.0)
    kept = ema.decay(0, 20)
    ema.update(0, 20)
    torch.testing.assert_close(ema.model.weight, before + (1 - kept))
    assert torch.equal(model.weight, before + 1.0)
    assert not ema.model.weight.requires_grad


def test_buffers_are_copied() -> None:
    model = nn.BatchNorm1d(2)
    ema = ExponentialMovingAverage(model, half_life=1e9, ramp_share=None)
    model(torch.randn(8, 2) + 5)
    ema.update(0, 8)
    assert torch.equal(ema.model.running_mean, model.running_mean)
    assert int(ema.model.num_batches_tracked) == 1


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="half_life"):
        ExponentialMovingAverage(nn.Linear(1, 1), half_life=-1.0)
    with pytest.raises(ValueError, match="ramp_share"):
        ExponentialMovingAverage(nn.Linear(1, 1), half_life=1.0, ramp_share=0.0)
