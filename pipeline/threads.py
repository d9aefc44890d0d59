"""How many CPU threads a process computes with, alone and beside the others of its job."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.ranks import Place


def usable_cores() -> int:
    """Return how many cores this process may use; where the system does not tell, all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with `count` CPU threads inside the block, then as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_here(place: Place) -> int:
    """Return the CPU threads of a process of a job whose settings leave them open.

    torchrun sets OMP_NUM_THREADS to 1 where it is not set: that stands for no choice, and the processes of a
    node then share its cores.
    """
    import torch

    offered = torch.get_num_threads()
    if place.size == 1 or offered > 1 or torch.cuda.is_available():
        return offered
    return max(1, usable_cores() // place.local_size)
