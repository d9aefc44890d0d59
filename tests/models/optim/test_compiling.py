"""Compiling is taken where it works and pays, and its failure is a warning."""

from __future__ import annotations

import logging
import shutil
from typing import Any

import pytest
import torch

from models.devices import choices
from models.diffusion.denoiser import Denoiser
from models.network.network import NetworkSpec
from models.optim.compiling import compiled
from models.optim.precision import Precision, _Seconds, graphs_fit, probe_compiled

SPEC = NetworkSpec((8, 8), 2, channels=(8,), attention=(False,), num_head_channels=8, num_norm_groups=8)
FP32 = Precision("fp32", channels_last=False)
# Not a flat image: its normalisation would divide rounding by rounding.
BATCH = (torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8), torch.ones(2), torch.tensor([0, 1]))


def broken(_module: Any, **_options: Any) -> Any:
    def call(*_arguments: Any) -> None:
        raise RuntimeError("no working C++ compiler found")

    return call


def test_what_cannot_be_compiled_runs_as_it_is_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", broken)
    denoiser = Denoiser(SPEC)
    call = compiled(denoiser)
    with caplog.at_level(logging.WARNING, logger="models.optim.compiling"):
        assert torch.equal(call(*BATCH), denoiser(*BATCH))
        assert torch.equal(call(*BATCH), denoiser(*BATCH))
    assert len(caplog.records) == 1
    assert call.failed
    chosen = probe_compiled(denoiser, FP32, batch_size=2, images_left=10**12, must=True)
    assert not chosen.compiled


@pytest.mark.parametrize(
    ("faster", "images_left", "seconds_left", "must", "expected"),
    [
        (True, 10**9, None, False, True),
        (True, 4, None, False, False),
        (True, 10**9, 300.0, False, False),
        (False, 10**9, None, False, False),
        (False, 4, None, True, True),
    ],
)
def test_compiling_is_taken_when_it_saves_more_than_it_costs(
    monkeypatch: pytest.MonkeyPatch,
    faster: bool,
    images_left: int,
    seconds_left: float | None,
    must: bool,
    expected: bool,
) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **_: module.forward)
    # Compiling takes as long as from one look at the clock to the next.
    clock = iter(range(0, 10**9, 200))
    monkeypatch.setattr("models.optim.precision.time.perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(
        "models.optim.precision._batch_seconds",
        lambda _trial, _size, call: _Seconds(0.01, 0.1 if isinstance(call, Denoiser) != faster else 0.2),
    )
    chosen = probe_compiled(
        Denoiser(SPEC), FP32, batch_size=2, images_left=images_left, seconds_left=seconds_left, must=must
    )
    assert chosen.compiled is expected
    assert set(chosen.measured) == {"fp32", "fp32 compiled"}
    assert chosen.name == ("fp32 compiled" if expected else "fp32")


@pytest.mark.parametrize(
    ("precision", "images_left", "seconds_left"),
    [(FP32, 10**9, 10.0), (Precision("fp32", False, {"fp32": 100.0}), 1000, None)],
    ids=["little time", "few images"],
)
def test_a_short_training_does_not_wait_for_a_compiler(
    monkeypatch: pytest.MonkeyPatch, precision: Precision, images_left: int, seconds_left: float | None
) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(torch, "compile", refuse)
    left: dict[str, Any] = {"images_left": images_left, "seconds_left": seconds_left}
    assert probe_compiled(Denoiser(SPEC), precision, batch_size=2, **left) == precision


@pytest.mark.parametrize(
    ("launching", "replay", "taken"), [(0.19, 0.1, True), (0.19, 0.19, False), (0.1, 0.1, False)]
)
def test_graphs_are_taken_where_launching_is_what_takes_the_time(
    monkeypatch: pytest.MonkeyPatch, launching: float, replay: float, taken: bool
) -> None:
    monkeypatch.setattr("models.optim.precision.graphs_fit", lambda precision, denoiser: True)
    monkeypatch.setattr(torch, "compile", lambda module, **_: module.forward)
    times = {False: _Seconds(launching, 0.2), True: _Seconds(0.01, replay)}

    def seconds(_trial: Denoiser, _size: int, call: Any) -> _Seconds:
        return _Seconds(0.3, 0.4) if isinstance(call, Denoiser) else times[call._graphs]

    monkeypatch.setattr("models.optim.precision._batch_seconds", seconds)
    chosen = probe_compiled(Denoiser(SPEC), FP32, batch_size=2, images_left=10**9)
    assert (chosen.compiled, chosen.graphs) == (True, taken)
    assert ("fp32 compiled graphs" in chosen.measured) == (launching > 0.9 * 0.2)


def test_graphs_would_overwrite_gradients_that_fp32_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = Denoiser(SPEC)
    assert not graphs_fit(Precision("bf16", channels_last=True), denoiser)
    monkeypatch.setattr("models.devices._CHOICES", {"cpu": choices("cuda")})
    assert graphs_fit(Precision("bf16", channels_last=True), denoiser)
    assert not graphs_fit(FP32, denoiser)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="a C++ compiler is missing: apt-get install g++")
def test_a_compiled_denoiser_computes_the_same() -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(SPEC)
    for parameter in denoiser.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    call = compiled(denoiser)
    expected, found = denoiser(*BATCH), call(*BATCH)
    assert not call.failed
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    found.square().mean().backward()
    chosen = probe_compiled(denoiser, FP32, batch_size=2, images_left=10, must=True)
    assert chosen.compiled
    assert not any("compile" in name for name in denoiser.state_dict())
