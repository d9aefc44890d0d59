"""Arrays of pixels with 8 and with 16 bits as one."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.artifacts.pixels import at_depth, common_depth, joined_pixels, to_model_range


def test_arrays_of_both_depths_are_joined_at_the_deeper_one() -> None:
    rng = np.random.default_rng(0)
    shallow = rng.integers(0, 255, (24, 1, 8, 8), dtype=np.uint8, endpoint=True)
    deep = rng.integers(0, 65535, (6, 1, 8, 8), dtype=np.uint16, endpoint=True)
    joined = joined_pixels([shallow, deep])
    assert joined.dtype == np.uint16 and np.array_equal(joined[24:], deep)
    assert to_model_range(joined[:24]) == pytest.approx(to_model_range(shallow), abs=1e-6)
    assert (common_depth([shallow]), common_depth([shallow, deep])) == (8, 16)
    assert joined_pixels([shallow]) is shallow and joined_pixels([shallow, shallow]).dtype == np.uint8
    assert at_depth(shallow, 8) is shallow and at_depth(deep, 8) is deep
