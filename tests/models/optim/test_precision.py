"""The probe measures every choice, takes a clearly faster one, and leaves the denoiser as it was."""

from __future__ import annotations

import pytest
import torch

from models.devices import choices
from models.diffusion.denoiser import Denoiser
from models.network.network import NetworkSpec
from models.optim.precision import Precision, _Seconds, apply_precision, precisions_of, probe_precision

SPEC = NetworkSpec((8, 8), 2, channels=(8,), attention=(False,), num_head_channels=8, num_norm_groups=8)

ALL = [Precision(dtype, channels_last) for dtype, channels_last in choices("cpu").arithmetic]


def test_probe_measures_all_and_changes_nothing() -> None:
    denoiser = Denoiser(SPEC)
    before = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    chosen = probe_precision(denoiser, batch_size=2)
    assert set(chosen.measured) == {choice.name for choice in precisions_of(torch.device("cpu"))}
    assert all(rate > 0 for rate in chosen.measured.values())
    best = max(chosen.measured.values())
    assert chosen.measured[chosen.name] * 1.1**3 >= best
    assert all(torch.equal(tensor, before[name]) for name, tensor in denoiser.state_dict().items())
    assert denoiser.compute_dtype is torch.float32
    assert all(parameter.grad is None for parameter in denoiser.parameters())


def test_a_choice_that_is_clearly_slower_never_sees_a_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, list[int]] = {}

    def pretend(trial: Denoiser, batch_size: int, _compute: object) -> _Seconds:
        """Imitated bf16: twenty times as slow."""
        seen.setdefault(id(trial), []).append(batch_size)
        slow = 20.0 if trial.compute_dtype is torch.bfloat16 else 1.0
        return _Seconds(0.0, slow * batch_size / 100)

    monkeypatch.setattr("models.optim.precision._batch_seconds", pretend)
    chosen = probe_precision(Denoiser(SPEC), batch_size=32, tried=ALL)
    assert chosen.name == "fp32 channels-last"
    assert chosen.measured == {
        "bf16": 5.0,
        "bf16 channels-last": 5.0,
        "fp32 channels-last": 100.0,
        "fp32": 100.0,
    }
    sizes = sorted(max(own) for own in seen.values())
    assert sizes == [1, 1, 32, 32]
    assert all(len(own) <= 4 for own in seen.values() if max(own) == 1)


def test_one_slow_moment_of_the_machine_drops_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def pretend(_trial: Denoiser, batch_size: int, _compute: object) -> _Seconds:
        nonlocal calls
        calls += 1
        # The first timed batch of each size falls into a busy moment.
        return _Seconds(0.0, 9.0 if calls in (5, 6, 21, 22) else batch_size / 100)

    monkeypatch.setattr("models.optim.precision._batch_seconds", pretend)
    chosen = probe_precision(Denoiser(SPEC), batch_size=32, tried=ALL)
    assert chosen.measured == dict.fromkeys((choice.name for choice in ALL), 100.0)
    assert calls == 4 * (4 + 6)


@pytest.mark.parametrize("choice", ALL, ids=lambda choice: choice.name)
def test_layout_changes_no_weight_and_bf16_rounds_to_nearest(choice: Precision) -> None:
    denoiser = Denoiser(SPEC)
    before = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    apply_precision(denoiser, choice)
    wanted = torch.bfloat16 if choice.dtype == "bf16" else torch.float32
    assert denoiser.compute_dtype is wanted
    for name, tensor in denoiser.state_dict().items():
        assert torch.equal(tensor, before[name].to(wanted))
    weight = denoiser.network.down_blocks[0].resnets[0].conv1.conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == choice.channels_last


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="dtype"):
        Precision("fp8", channels_last=False)
