"""A network that is not there yet is timed in the arithmetic that this machine would train it in."""

from __future__ import annotations

import pytest
import torch

from models import devices
from models.network.spec import NetworkSpec
from pipeline.cost.network import PlannedNetwork, denoise_pace

SPEC = NetworkSpec((8, 8), 2, channels=(8,), attention=(False,), num_head_channels=8, num_norm_groups=8)


def planned(precision: str) -> PlannedNetwork:
    return PlannedNetwork(SPEC, precision, sigma_data=0.5)


@pytest.mark.parametrize("native", [True, False])
def test_bf16_is_timed_where_the_processor_has_it_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr(devices, "has_bf16", lambda _device: native)
    monkeypatch.setattr(devices, "default_device", lambda: torch.device("cpu"))
    assert planned("auto").arithmetic().dtype == ("bf16" if native else "fp32")
    assert planned("fp32").arithmetic().dtype == "fp32"
    assert planned("bf16").arithmetic().dtype == "bf16"


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


def test_a_network_with_conditions_and_augmentation_is_timed_too() -> None:
    spec = NetworkSpec.from_dict({**SPEC.to_dict(), "conditions": (2, 3), "augment_features": 7})
    assert denoise_pace(PlannedNetwork(spec, "fp32", sigma_data=0.5), 4).seconds > 0
