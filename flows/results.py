"""Prefect's cached task results of a run directory: repaired after a kill, and checked against the disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import DataError
from pipeline.records import Reference
from pipeline.stage import load_reference

RefT = TypeVar("RefT", bound=Reference)


def drop_torn_results(folder: Path) -> int:
    """Remove cached results that a kill left incomplete; the stages' own outputs are what counts.

    Returns:
        Number of removed results.
    """
    removed = 0
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        try:
            whole = path.is_file() and isinstance(json.loads(path.read_bytes()), dict)
        except (OSError, ValueError):
            whole = False
        if not whole and path.is_file():
            path.unlink()
            removed += 1
    return removed


def call_task(task: Callable[..., RefT], *arguments: Any, **inputs: Any) -> RefT:
    """Call a task of a stage, again if Prefect has cached a reference that no directory holds any more.

    Args:
        task: Prefect task that returns a reference.
        *arguments: its positional arguments.
        **inputs: its other arguments.
    """
    reference = task(*arguments, **inputs)
    if _still_there(reference):
        return reference
    again: Callable[..., RefT] = task.with_options(refresh_cache=True)  # type: ignore[attr-defined]
    return again(*arguments, **inputs)


def _still_there(reference: Reference) -> bool:
    """Return whether the directory holds exactly what the reference describes."""
    try:
        return load_reference(type(reference), reference.path) == reference
    except DataError:
        return False
