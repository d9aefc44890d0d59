"""Prefect's cached task results of a run directory, repaired after a kill."""

from __future__ import annotations

import json
from pathlib import Path


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
