"""Products made a tile at a time are what they are as a whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import products
from models.products import entries_at_once, product, raise_to_products


@given(
    rows=st.integers(1, 9),
    count=st.integers(1, 300),
    sets=st.integers(1, 4),
    cached=st.sampled_from([1, 500, 2**18]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_every_entry_is_the_largest_so_far(rows: int, count: int, sets: int, cached: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    several = torch.randn(sets, rows, 5, generator=generator)
    others, before = torch.randn(count, 5, generator=generator), torch.randn(rows, count, generator=generator)
    best = before.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "entries_at_once", lambda _device: cached)
        raise_to_products(best, list(several), others)
        made = product(several[0], others)
    expected = torch.maximum(before, (several @ others.T).amax(dim=0))
    torch.testing.assert_close(best, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made, several[0] @ others.T, rtol=1e-5, atol=1e-5)


def test_an_accelerator_makes_more_at_once() -> None:
    assert entries_at_once(torch.device("cuda")) > entries_at_once(torch.device("cpu"))
