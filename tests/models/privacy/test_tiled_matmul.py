"""Products made a tile at a time are what they are as a whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.privacy import tiled_matmul as products
from models.privacy.tiled_matmul import (
    ALIGNED,
    HELD_ENTRIES,
    entries_at_once,
    product,
    raise_to_products,
    rows_at_once,
    tiles,
)
from tests.pretended import META

CPU = torch.device("cpu")
SEVERAL = (products._raise_one_by_one, products._raise_together)


@given(
    rows=st.integers(1, 9),
    count=st.integers(1, 300),
    sets=st.integers(1, 4),
    cached=st.sampled_from([1, 500, 2**18]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
def test_every_entry_is_the_largest_so_far(rows: int, count: int, sets: int, cached: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    several = torch.randn(sets, rows, 5, generator=generator)
    others, before = torch.randn(count, 5, generator=generator), torch.randn(rows, count, generator=generator)
    expected = torch.maximum(before, (several @ others.T).amax(dim=0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "entries_at_once", lambda _device: cached)
        for raised in SEVERAL:
            best = before.clone()
            raised(best, several, others)
            torch.testing.assert_close(best, expected, rtol=1e-5, atol=1e-5)
        made = product(several[0], others)
    torch.testing.assert_close(made, several[0] @ others.T, rtol=1e-5, atol=1e-5)


def test_an_accelerator_makes_more_at_once() -> None:
    assert entries_at_once(torch.device("cuda")) > entries_at_once(torch.device("cpu"))


def test_a_processor_makes_one_set_at_a_time_and_an_accelerator_all(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    for way in SEVERAL:
        monkeypatch.setattr(products, way.__name__, lambda *_, name=way.__name__: used.append(name))
    for device in (CPU, META):
        best, sets, others = (torch.empty(shape, device=device) for shape in ((2, 3), (4, 2, 5), (3, 5)))
        raise_to_products(best, sets, others)
    assert used == [way.__name__ for way in SEVERAL]


def test_tiles_cover_every_column_once_and_fit_the_device() -> None:
    for device, rows, count in (
        (CPU, 300, 5_332),
        (META, 125_000, 5_332),
        (META, 7, 5_332),
        (META, 10**7, 9),
    ):
        found = list(tiles(rows, count, device))
        assert [column for tile in found for column in range(count)[tile]] == list(range(count))
        wide = found[0].stop
        assert wide * rows <= max(entries_at_once(device), ALIGNED * rows)
        assert device == CPU or wide >= count or wide % ALIGNED == 0


def test_a_processor_keeps_its_blocks_and_an_accelerator_fills_its_memory() -> None:
    assert rows_at_once(10**9, CPU, on_cpu=32) == 32
    assert rows_at_once(1_000, META, on_cpu=32) == HELD_ENTRIES // 1_000
    assert rows_at_once(2 * HELD_ENTRIES, META, on_cpu=32) == 1
