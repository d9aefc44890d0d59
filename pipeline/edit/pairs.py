"""Sources and edits: the private table of pairs, and a private picture of a few pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.artifacts.pixels import PixelShards
from pipeline.edit.sources import Sources
from pipeline.rendering.pictures import contact_sheet, display_pixels
from pipeline.storage import atomic_path, write_parquet

if TYPE_CHECKING:
    import pandas as pd

EDITS_NAME = "edits.parquet"
PAIRS_NAME = "pairs.png"
PAIRS_SHOWN = 8
_SHOWN_PIXELS = 96


def write_edits(
    folder: Path, table: pd.DataFrame, sources: Sources, *, strength: float, mask_digest: str
) -> str:
    """Write `edits.parquet`, one row per edit in the order of the candidates; return its name.

    Columns: sample_id, source_kind (cohort or candidates), source_id, source_class, target_class,
    edited_from, strength, mask_digest (empty for the whole image).
    """
    import pandas as pd

    edits = pd.DataFrame(
        {
            "sample_id": table["sample_id"],
            "source_kind": sources.kind,
            "source_id": sources.ids,
            "source_class": sources.classes,
            "target_class": table["class"],
            "edited_from": sources.edited_from,
            "strength": strength,
            "mask_digest": mask_digest,
        }
    )
    write_parquet(folder / EDITS_NAME, edits, private=True)
    return EDITS_NAME


def write_pairs(folder: Path, sources: Sources) -> None:
    """Write `pairs.png`: source, edit, and their difference (mid-grey is none) for the first few edits."""
    count = min(PAIRS_SHOWN, len(sources))
    before = display_pixels(sources.pixels(0, count))
    after = display_pixels(PixelShards(folder, role="candidates").take(range(count)))
    change = (after.astype(np.int16) - before.astype(np.int16)) // 2 + 128
    shown = np.stack([before, after, change.astype(np.uint8)], axis=1).reshape(-1, *before.shape[1:])
    scale = max(1, _SHOWN_PIXELS // max(before.shape[-2:]))
    with atomic_path(folder / PAIRS_NAME, private=True) as temporary:
        temporary.write_bytes(contact_sheet(shown, columns=3, scale=scale))
