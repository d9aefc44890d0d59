"""Pictures of the report: real beside synthetic by class, nearest real scans, training snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.arrays import Floats, Ints
from pipeline.artifacts.pixels import StoredPixels
from pipeline.rendering.formats import percent, plural
from pipeline.rendering.pictures import contact_sheet, data_uri, png_bytes
from pipeline.report.folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

GRID_COLUMNS = 4
GRID_IMAGES = 8
CLOSEST_PAIRS = 8
TILE_PIXELS = 112
MAX_SNAPSHOTS = 4
MAX_SNAPSHOT_BYTES = 8 * 2**20
CLOSENESS = {
    "correlation_isolation": "the nearest scan of any other patient",
    "correlation_ratio": "the nearest scan that nothing was trained on",
}
"""Columns of the audit's table that hold a log ratio of distances -> what the distance is divided by.

Both are of the correlation view, which names the nearest scan."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Pair:
    """A synthetic image and the real scan nearest to it, as `data:` addresses, with a caption."""

    synthetic: str
    real: str
    caption: str
    ids: str


@dataclass(frozen=True)
class ClassPictures:
    """Pictures of one class.

    Attributes:
        name: the class.
        real: contact sheet of real scans as a `data:` address, empty if there are none.
        synthetic: the same of synthetic images.
        num_real: images on the real sheet.
        num_synthetic: images on the synthetic sheet.
        synthetic_words: status of the synthetic images (`released`, `candidates, not audited`, ...).
        pairs: the synthetic images of the sheet, each with its nearest real scan.
        closest: the accepted images that are closest to a training scan, nearest first.
    """

    name: str
    real: str
    synthetic: str
    num_real: int
    num_synthetic: int
    synthetic_words: str
    pairs: tuple[Pair, ...]
    closest: tuple[Pair, ...]


@dataclass(frozen=True)
class Snapshot:
    """A sample grid written by training, with its step."""

    picture: str
    step: int


def class_pictures(run: RunFolder) -> list[ClassPictures]:
    """Return the pictures of each class; empty if the run has neither cohort nor candidates."""
    if run.cohort is not None:
        names = list(run.cohort.info.classes)
    elif run.candidates is not None:
        names = list(dict.fromkeys(run.candidates.table["class"]))
    else:
        return []
    return [_of_class(run, name) for name in names]


def spread(rows: Ints, count: int) -> Ints:
    """Return at most `count` of `rows` at even spacing, first and last included: not hand-picked."""
    if len(rows) <= count:
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]


def snapshots(checkpoint: Path) -> list[Snapshot]:
    """Return up to four of the sample grids of a training, first and last included."""
    paths = sorted((checkpoint / "grids").glob("step-*.png"), key=_step)
    kept = [path for path in paths if _step(path) >= 0]
    places = spread(np.arange(len(kept)), MAX_SNAPSHOTS)
    found = []
    for path in (kept[place] for place in places):
        if path.is_symlink() or path.stat().st_size > MAX_SNAPSHOT_BYTES:
            continue
        png = path.read_bytes()
        if png.startswith(PNG_SIGNATURE):
            found.append(Snapshot(data_uri(png), _step(path)))
    return found


def _step(path: Path) -> int:
    digits = path.stem.removeprefix("step-")
    return int(digits) if digits.isascii() and digits.isdigit() else -1


def _of_class(run: RunFolder, name: str) -> ClassPictures:
    real = np.empty(0, np.int64)
    if run.cohort is not None:
        real = spread(run.cohort.rows("train", run.cohort.info.classes.index(name)), GRID_IMAGES)
    rows, words = _synthetic_rows(run, name)
    shown = spread(rows, GRID_IMAGES)
    return ClassPictures(
        name=name,
        real=_sheet(run.cohort.take(real)) if run.cohort is not None and len(real) else "",
        synthetic=_sheet(run.candidates.take(shown)) if run.candidates is not None and len(shown) else "",
        num_real=len(real),
        num_synthetic=len(shown),
        synthetic_words=words,
        pairs=_pairs(run, shown),
        closest=_pairs(run, _closest_accepted(run, name)),
    )


def _synthetic_rows(run: RunFolder, name: str) -> tuple[Ints, str]:
    """Return the candidate rows of a class that the page shows, and their status."""
    if run.candidates is None:
        return np.empty(0, np.int64), "not made"
    of_class = (run.candidates.table["class"] == name).to_numpy()
    if run.audit_table is None:
        return np.flatnonzero(of_class), "candidates, not audited"
    accepted = of_class & run.audit_table["accepted"].to_numpy(dtype=bool)
    if run.release is not None:
        return np.flatnonzero(accepted), "released"
    if accepted.any():
        return np.flatnonzero(accepted), "accepted one by one, not released"
    return np.flatnonzero(of_class), "candidates, none accepted"


def _closest_accepted(run: RunFolder, name: str) -> Ints:
    """Return the accepted rows of a class that are nearest to train by `closeness`, most copy-like first."""
    table = run.audit_table
    if table is None or run.candidates is None:
        return np.empty(0, np.int64)
    shares = closeness(table)
    wanted = (table["class"] == name).to_numpy() & table["accepted"].to_numpy(dtype=bool)
    rows = np.flatnonzero(wanted & np.isfinite(shares))
    return rows[np.argsort(shares[rows], kind="stable")][:CLOSEST_PAIRS]


def closeness(table: pd.DataFrame) -> Floats:
    """Return each candidate's distance to its nearest train scan, relative to that to a reference scan.

    Returns:
        (N,), 0 for an exact copy, NaN if the audit did not measure it; `compared_with` names the reference.
    """
    column = next((name for name in CLOSENESS if name in table.columns), None)
    if column is None:
        return np.full(len(table), np.nan)
    logs = table[column].to_numpy(dtype=np.float64, na_value=np.nan)
    return np.exp(np.minimum(logs, 700.0))


def compared_with(table: pd.DataFrame | None) -> str:
    """Return what the distance to the nearest train scan is divided by, in words; empty if unknown."""
    if table is None:
        return ""
    return next((words for name, words in CLOSENESS.items() if name in table.columns), "")


def _pairs(run: RunFolder, rows: Ints) -> tuple[Pair, ...]:
    table, cohort, candidates = run.audit_table, run.cohort, run.candidates
    if table is None or cohort is None or candidates is None or not len(rows):
        return ()
    nearest = table["nearest_row"].to_numpy(dtype=np.float64, na_value=np.nan)[rows]
    known = np.isfinite(nearest) & (nearest >= 0) & (nearest < len(cohort.labels))
    rows, neighbours = rows[known], nearest[known].astype(np.int64)
    shares = closeness(table)
    drawn, real = candidates.take(rows), cohort.take(neighbours)
    return tuple(
        Pair(
            synthetic=_tile(drawn[place]),
            real=_tile(real[place]),
            caption=percent(float(shares[row]), 0) if np.isfinite(shares[row]) else "",
            ids=f"{table['sample_id'].iloc[row]} / {table['nearest_sample_id'].iloc[row]}",
        )
        for place, row in enumerate(rows)
    )


def _scale(image_size: tuple[int, ...]) -> int:
    # Integer factors only: each stored pixel stays a square and nothing is smoothed.
    return max(1, round(TILE_PIXELS / max(image_size)))


def _sheet(images: StoredPixels) -> str:
    return data_uri(contact_sheet(images, GRID_COLUMNS, _scale(images.shape[2:])))


def _tile(image: StoredPixels) -> str:
    return data_uri(png_bytes(image, scale=_scale(image.shape[1:])))


def shown_words(pictures: ClassPictures) -> str:
    """Return the caption of a class's synthetic sheet."""
    if not pictures.num_synthetic:
        return f"Synthetic: {pictures.synthetic_words}"
    return f"Synthetic: {plural(pictures.num_synthetic, 'image')}, {pictures.synthetic_words}"
