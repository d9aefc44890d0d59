"""Settings of trainings that take a second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NETWORK: Mapping[str, Any] = {
    "channels": (8, 16),
    "attention": (False, True),
    "num_head_channels": 8,
    "num_norm_groups": 8,
}
TRAIN: Mapping[str, Any] = {
    **NETWORK,
    "batch_size": 8,
    "precision": "fp32",
    "num_threads": 1,
    "grid_every_steps": 0,
}
"""Fields of `TrainSettings`: one thread and fp32, so that the same machine gives the same bytes."""
