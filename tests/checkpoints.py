"""Descriptions of checkpoints, for tests that read no weights."""

from __future__ import annotations

from typing import Any


def description(**fields: Any) -> dict[str, Any]:
    """Return the content of a `checkpoint.json` of one class and 8x8 pixels, with these fields changed."""
    return {
        "network": {},
        "sigma_data": 0.5,
        "classes": ("a",),
        "image_size": (8, 8),
        "bit_depth": 8,
        "cohort_digest": "0" * 64,
        "cohort_name": "drawn",
        "num_steps": 1,
        "images_seen": 1,
        "seed": 0,
        "precision": "fp32",
        "channels_last": False,
        "num_threads": 1,
        "device": "cpu",
        "libraries": {},
    } | fields
