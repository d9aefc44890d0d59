"""Power-function averages follow their profiles, and snapshots give back averages of other lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.optim.ema import PowerFunctionAverages, exponent, mixture, profile
from models.optim.snapshots import (
    FOLDER_NAME,
    read_average,
    snapshot_name,
    snapshot_steps,
    step_of,
    write_snapshot,
)

STEPS = 320
LENGTHS = (0.05, 0.10)


class Walk(nn.Module):
    """Weights on a random walk, the roughest path that training could take."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(400))
        self._generator = torch.Generator().manual_seed(3)

    @torch.no_grad()
    def move(self) -> None:
        self.weight += torch.randn(400, generator=self._generator)


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[float, torch.Tensor]]:
    """Return a folder of 16 snapshots of two averages, and averages of other lengths tracked directly."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / FOLDER_NAME).mkdir()
    model = Walk()
    stored = PowerFunctionAverages(model, LENGTHS)
    tracked = PowerFunctionAverages(model, (0.03, 0.05, 0.07, 0.10, 0.15, 0.20))
    for step in range(1, STEPS + 1):
        model.move()
        stored.update(step)
        tracked.update(step)
        if step in snapshot_steps(STEPS, 16):
            write_snapshot(folder, step, stored)
    return folder, {length: average.weight.clone() for length, average in tracked.models.items()}


@pytest.mark.parametrize("length", [0.01, 0.05, 0.1, 0.15, 0.25])
def test_length_is_the_standard_deviation_of_the_profile(length: float) -> None:
    edges = np.linspace(0, 1_000_000, 20_001)
    share = profile(length, 1_000_000, edges)
    time = (edges[1:] + edges[:-1]) / 2 / 1_000_000
    mean = (share * time).sum()
    assert share.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.sqrt((share * (time - mean) ** 2).sum()) == pytest.approx(length, rel=1e-3)


def test_the_update_gives_each_step_the_share_of_the_profile() -> None:
    model = nn.Linear(1, 1, bias=False)
    averages = PowerFunctionAverages(model, LENGTHS)
    steps = np.arange(1, 41)
    values = np.random.default_rng(0).normal(size=40)
    for step, value in zip(steps, values, strict=True):
        nn.init.constant_(model.weight, float(value))
        averages.update(int(step))
    for length in LENGTHS:
        expected = profile(length, 40, np.arange(41.0)) @ values
        assert float(averages.models[length].weight) == pytest.approx(expected, abs=1e-5)


def test_first_update_forgets_the_initial_weights_and_leaves_the_model_alone() -> None:
    model = nn.Linear(2, 2)
    averages = PowerFunctionAverages(model, LENGTHS)
    nn.init.constant_(model.weight, 3.0)
    averages.update(1)
    assert all(torch.equal(average.weight, model.weight) for average in averages.models.values())
    assert bool((model.weight == 3.0).all())
    assert not averages.models[0.05].weight.requires_grad


def test_buffers_are_copied() -> None:
    model = nn.BatchNorm1d(2)
    averages = PowerFunctionAverages(model, LENGTHS)
    averages.update(1)
    model(torch.randn(8, 2) + 5)
    averages.update(2)
    assert torch.equal(averages.models[0.1].running_mean, model.running_mean)


def test_a_mixture_sums_to_one_and_of_a_stored_length_is_that_length() -> None:
    stored = [(length, step) for step in snapshot_steps(640, 16) for length in LENGTHS]
    for length in (0.03, 0.07, 0.2):
        factors, error = mixture(stored, (length, 640))
        assert factors.sum() == pytest.approx(1.0, abs=1e-12)
        assert error < 0.06
    factors, error = mixture(stored, (0.05, 320))
    assert error == 0.0
    assert [stored[place] for place in np.flatnonzero(factors)] == [(0.05, 320)]
    with pytest.raises(ValueError, match="no average was stored by step 3"):
        mixture(stored, (0.05, 3))


@pytest.mark.parametrize(
    ("length", "tolerance"),
    [(0.03, 0.01), (0.05, 3e-4), (0.07, 2e-3), (0.10, 3e-4), (0.15, 3e-3), (0.2, 0.01)],
)
def test_an_average_made_from_snapshots_is_near_the_tracked_one(
    walked: tuple[Path, dict[float, torch.Tensor]], length: float, tolerance: float
) -> None:
    """The tolerance is a share of the weights' size; the stored lengths differ by rounding alone."""
    folder, tracked = walked
    steps = snapshot_steps(STEPS, 16)
    made = read_average(folder, steps, LENGTHS, (length, STEPS), {"weight": tracked[length]})["weight"]
    assert float((made - tracked[length]).norm() / tracked[length].norm()) < tolerance


def test_an_average_of_an_earlier_step_uses_nothing_later(
    walked: tuple[Path, dict[float, torch.Tensor]], tmp_path: Path
) -> None:
    folder, tracked = walked
    steps = snapshot_steps(STEPS, 16)
    (tmp_path / FOLDER_NAME).mkdir()
    for step in steps[:8]:
        (tmp_path / snapshot_name(step)).write_bytes((folder / snapshot_name(step)).read_bytes())
    wanted, like = (0.07, steps[7]), {"weight": tracked[0.05]}
    early = read_average(folder, steps, LENGTHS, wanted, like)
    assert torch.equal(read_average(tmp_path, steps[:8], LENGTHS, wanted, like)["weight"], early["weight"])


def test_what_the_snapshots_cannot_give_is_refused(walked: tuple[Path, dict[float, torch.Tensor]]) -> None:
    folder, tracked = walked
    steps = snapshot_steps(STEPS, 16)
    with pytest.raises(ValueError, match=r"no average of length 0\.01"):
        read_average(folder, steps, LENGTHS, (0.01, STEPS), {"weight": tracked[0.05]})
    with pytest.raises(ValueError, match="its shape differs"):
        read_average(folder, steps, LENGTHS, (0.05, STEPS), {"weight": torch.zeros(3)})


def test_a_weight_too_large_for_half_precision_is_kept_whole(tmp_path: Path) -> None:
    (tmp_path / FOLDER_NAME).mkdir()
    model = nn.Linear(2, 1)
    nn.init.constant_(model.weight, 1e6)
    averages = PowerFunctionAverages(model, (0.1,))
    averages.update(1)
    write_snapshot(tmp_path, 1, averages)
    made = read_average(tmp_path, [1], (0.1,), (0.1, 1), dict(model.state_dict()))
    assert torch.equal(made["weight"], model.weight)


def test_snapshots_are_evenly_spaced_and_end_with_the_training() -> None:
    assert snapshot_steps(1000, 4) == (250, 500, 750, 1000)
    assert snapshot_steps(3, 16) == (1, 2, 3)
    assert step_of(Path(snapshot_name(750)).name) == 750
    assert step_of(".step-000000750.safetensors.7.tmp") is None


@pytest.mark.parametrize("lengths", [(), (0.1, 0.1), (0.3,), (0.0,)])
def test_wrong_lengths_are_named(lengths: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="length"):
        PowerFunctionAverages(nn.Linear(1, 1), lengths)


def test_exponents_of_the_usual_lengths() -> None:
    # arXiv 2312.02696, section 3.1: sigma_rel 0.05 and 0.10 are gamma 16.97 and 6.94.
    assert exponent(0.05) == pytest.approx(16.97, abs=0.01)
    assert exponent(0.10) == pytest.approx(6.94, abs=0.01)
