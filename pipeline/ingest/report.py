"""The private quality page of a cohort: counts, refusals, duplicates, shared patients, images by class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.cohort import CohortInfo
from pipeline.ingest.assemble import Written
from pipeline.ingest.quality import NEAR_CONSTANT
from pipeline.ingest.survey import Overview
from pipeline.pixels import PixelShards
from pipeline.records import SPLITS
from pipeline.storage import write_text

IMAGES_A_CLASS = 24
COLUMNS = 12
TILE_PIXELS = 72


def write_quality_page(out: Path, info: CohortInfo, written: Written, overview: Overview) -> Path:
    """Write `qc.html`: one file, no network, mode 0600; it shows real patients.

    Args:
        out: the cohort directory, with its shards written.
        info: the content of `cohort.json`.
        written: counts by reason and flag.
        overview: duplicates and shared patients.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("pipeline.ingest", "."), autoescape=True)
    page = environment.get_template("qc.html.j2").render(
        info=info,
        splits=SPLITS,
        written=written,
        shared=overview.shared,
        duplicates=overview.duplicates,
        duplicate_parts={name: n for name, n in overview.duplicate_parts.items() if name},
        duplicate_sides=overview.duplicate_sides,
        crossing=overview.crossing[0],
        near_constant=written.flags.get(NEAR_CONSTANT, 0),
        rejected=sum(written.rejected.values()),
        sheets=_sheets(out, info, overview),
    )
    path = out / "qc.html"
    write_text(path, page, private=True)
    return path


def _sheets(out: Path, info: CohortInfo, overview: Overview) -> dict[str, str]:
    """Return class -> data address of a contact sheet, evenly spaced over the class's records."""
    from pipeline.pictures import contact_sheet, data_uri

    shards = PixelShards(out, role="cohort")
    labels = overview.labels[overview.kept]
    sheets = {}
    for code, name in enumerate(info.classes):
        rows = np.flatnonzero(labels == code)
        chosen = rows[np.linspace(0, len(rows) - 1, min(IMAGES_A_CLASS, len(rows))).astype(int)]
        scale = max(1, TILE_PIXELS // info.image_size[0])
        sheets[name] = data_uri(contact_sheet(shards.take(chosen), COLUMNS, scale))
    return sheets
