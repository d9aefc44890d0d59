"""What a dry run times is what the stage would compute with here."""

from __future__ import annotations

import pytest
import torch

from models import devices
from pipeline.cost import speed
from pipeline.cost.pacing import Pace
from pipeline.recipe import load_recipe
from pipeline.train.settings import TrainSettings

SMALL = ["train.channels=[16,32]", "train.attention=[false,false]", "train.num_norm_groups=8"]


def settings(*overrides: str) -> TrainSettings:
    return load_recipe("cpu", [*SMALL, *overrides]).train


@pytest.mark.parametrize("native", [True, False])
def test_bf16_is_timed_where_the_processor_has_it_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr(devices, "has_bf16", lambda _device: native)
    monkeypatch.setattr(devices, "default_device", lambda: torch.device("cpu"))
    assert speed._precision(settings()).dtype == ("bf16" if native else "fp32")
    assert speed._precision(settings("train.precision=fp32")).dtype == "fp32"
    assert speed._precision(settings("train.precision=bf16")).dtype == "bf16"


def test_a_torch_that_was_kept_from_avx512_has_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    devices.has_bf16.cache_clear()
    try:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
        assert not devices.has_bf16(torch.device("cpu"))
        devices.has_bf16.cache_clear()
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
        assert devices.has_bf16(torch.device("cpu"))
    finally:
        devices.has_bf16.cache_clear()


def test_memory_grows_with_the_batch_though_a_few_scans_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "pace_of", lambda _call, count: Pace(float(count), 1))
    few, many, parts = (
        speed.train_speed(settings(f"train.batch_size={size}", *more), (32, 32), 2).more_bytes
        for size, more in ((8, []), (64, []), (64, ["train.micro_batch=8"]))
    )
    assert many == pytest.approx(few * 63 / 7) and parts == few > 0
