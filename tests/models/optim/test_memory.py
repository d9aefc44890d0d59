"""An allocation that fails is told from other errors, and a size that fits is found by trying."""

from __future__ import annotations

import pytest
import torch

from models.optim.memory import largest_that_fits, out_of_memory


def test_errors_of_real_allocators_are_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert out_of_memory(caught.value)
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not out_of_memory(RuntimeError("shapes do not match"))
    assert not out_of_memory(ValueError("not enough memory"))


def test_halves_are_tried_until_one_fits() -> None:
    tried: list[int] = []

    def attempt(size: int) -> None:
        tried.append(size)
        if size > 5:
            torch.empty(2**62, dtype=torch.uint8)

    assert largest_that_fits(attempt, 64) == 4
    assert tried == [32, 16, 8, 4]


def test_nothing_may_fit_and_other_errors_stay() -> None:
    def never(_size: int) -> None:
        raise MemoryError

    def broken(_size: int) -> None:
        raise RuntimeError("a bug")

    assert largest_that_fits(never, 64) == 0
    with pytest.raises(RuntimeError, match="a bug"):
        largest_that_fits(broken, 64)
