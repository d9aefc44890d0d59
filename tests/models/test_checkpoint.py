"""Tensor files come back as they were written, and every kind of damage is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.checkpoint import load_into, read_tensors, write_tensors

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "model.safetensors"
    write_tensors(file, TENSORS, {"step": 5, "name": "π"})
    return file


def test_round_trip(path: Path) -> None:
    found = read_tensors(path, TENSORS)
    assert found.metadata == {"step": 5, "name": "π"}
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in TENSORS.items())


def test_equal_content_gives_equal_bytes_and_no_leftovers(path: Path) -> None:
    other = path.with_name("other.safetensors")
    # Channels-last memory must not show in the file.
    write_tensors(other, dict(reversed(TENSORS.items())), {"name": "π", "step": 5})
    assert other.read_bytes() == path.read_bytes()
    assert {file.name for file in path.parent.iterdir()} == {path.name, other.name}
    assert path.stat().st_mode & 0o077 == 0


def test_memory_layout_is_not_stored(tmp_path: Path) -> None:
    tensor = torch.randn(2, 3, 4, 4)
    for name, stored in (("a", tensor), ("b", tensor.contiguous(memory_format=torch.channels_last))):
        write_tensors(tmp_path / name, {"w": stored}, {})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_failed_write_keeps_the_old_file(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError, match="metadata"):
        write_tensors(path, TENSORS, {"bad": object()})
    with pytest.raises(ValueError, match="JSON"):
        write_tensors(path, TENSORS, {"bad": float("nan")})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("keep", [0, 7, 40, -1])
def test_truncated_file_is_refused(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        read_tensors(path)


def test_foreign_bytes_are_refused(path: Path) -> None:
    path.write_bytes(b"\x80\x04\x95pickle" * 50)
    with pytest.raises(ValueError, match="safetensors"):
        read_tensors(path)


def test_file_without_our_header_is_refused(path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="header"):
        read_tensors(path)


def test_values_that_are_not_finite_are_refused(path: Path) -> None:
    write_tensors(path, {"weight": torch.tensor([1.0, float("nan")])}, {})
    with pytest.raises(ValueError, match="weight"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("expected", "reason"),
    [
        ({**TENSORS, "bias": torch.zeros(1)}, "bias"),
        ({"weight": TENSORS["weight"]}, "count"),
        ({**TENSORS, "weight": torch.zeros(3, 2)}, r"weight.*\(2, 3\).*\(3, 2\)"),
        ({**TENSORS, "weight": torch.zeros(2, 3, dtype=torch.float64)}, "float64"),
    ],
)
def test_difference_from_what_is_expected_is_named(
    path: Path, expected: dict[str, torch.Tensor], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        read_tensors(path, expected)


def test_loading_into_a_model_keeps_its_layout() -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    tensors = {"weight": torch.randn(4, 3, 3, 3), "bias": torch.randn(4)}
    load_into(model, tensors)
    assert torch.equal(model.weight, tensors["weight"])
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="bias"):
        load_into(model, {"weight": tensors["weight"]})
