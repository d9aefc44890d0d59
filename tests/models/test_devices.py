"""What each kind of device is computed with; a block of work leaves torch's switches as they were."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from models.devices import arithmetic_of, choices, computing, default_device, has_bf16, to_device

CUDA, MPS, CPU = torch.device("cuda"), torch.device("mps"), torch.device("cpu")


def _switches() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "cudnn": torch.backends.cudnn.enabled,
            "benchmark": torch.backends.cudnn.benchmark,
            "convolutions in tf32": torch.backends.cudnn.allow_tf32,
            "products in tf32": torch.backends.cuda.matmul.allow_tf32,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "warns": torch.is_deterministic_algorithms_warn_only_enabled(),
            "filled": torch.utils.deterministic.fill_uninitialized_memory,
        }


def test_a_gpu_computes_with_cudnn_the_same_bits_each_time_and_fp32_as_fp32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = _switches()
    with computing(CUDA):
        inside = _switches()
    assert inside["cudnn"] and inside["deterministic"]
    assert not (inside["benchmark"] or inside["convolutions in tf32"] or inside["products in tf32"])
    assert _switches() == before


def test_switches_are_set_back_after_an_error_and_as_the_caller_had_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = _switches()
    with pytest.raises(KeyError), computing(CUDA):
        assert not torch.backends.cudnn.benchmark
        raise KeyError
    assert _switches() == before and before["benchmark"]


def test_a_cpu_is_left_as_it_is() -> None:
    before = _switches()
    with computing(CPU):
        assert _switches() == before


def test_mps_computes_in_nothing_wider_than_fp32() -> None:
    assert choices(MPS).wide is torch.float32
    assert choices(CUDA).wide is choices(CPU).wide is torch.float64


def test_what_a_device_only_imitates_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("models.devices.has_bf16", lambda device: False)
    assert {dtype for dtype, _ in arithmetic_of(CPU)} == {"fp32"}
    assert arithmetic_of(CUDA)[0] == ("fp32", True)
    monkeypatch.setattr("models.devices.has_bf16", lambda device: True)
    assert arithmetic_of(CPU)[0] == ("bf16", False)
    assert arithmetic_of(CUDA)[0] == ("bf16", True)


def test_a_processor_of_another_family_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr("models.devices.has_bf16", lambda device: False)
    assert "bf16" in {dtype for dtype, _ in arithmetic_of(CPU)}


def test_old_systems_have_no_bf16_on_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> torch.Tensor:
        raise TypeError("BFloat16 is not supported on MPS")

    has_bf16.cache_clear()
    monkeypatch.setattr(torch, "ones", refuse)
    assert not has_bf16(MPS)
    has_bf16.cache_clear()


@pytest.mark.parametrize(("cuda", "mps", "wanted"), [(1, 1, "cuda:1"), (0, 1, "mps"), (0, 0, "cpu")])
def test_the_accelerator_there_is_comes_first(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: int, wanted: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    assert str(default_device()) == wanted


def test_a_copy_to_the_cpu_is_the_tensor_itself() -> None:
    tensor = torch.arange(3)
    assert to_device(tensor, CPU) is tensor
