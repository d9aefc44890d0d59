"""Reading of a release for measurements: verified against its recorded digests, decoded within limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Floats, Ints
from pipeline.artifacts.cohort import ATTRIBUTES, Cohort
from pipeline.artifacts.findings import requested_findings
from pipeline.artifacts.pixels import StoredPixels
from pipeline.artifacts.privacy_report import REPORT_NAME as PRIVACY_REPORT_NAME
from pipeline.errors import DataError
from pipeline.records import ReleaseRef
from pipeline.stage import folder_of, verify_reference
from pipeline.storage import read_json

if TYPE_CHECKING:
    import pandas as pd

TABLE_NAMES = ("metadata.parquet/part-0.parquet", "metadata.parquet")
"""Paths of the table of a release: the current one, then those of earlier versions."""

NEEDED_COLUMNS = ("sample_id", "file_name", "class", "synthetic")
_MODES = {"L": 8, "I;16": 16}
_REMEDY = "Make the release again from candidates of this cohort."


@dataclass(frozen=True)
class ReleasedImages:
    """All images of a release, in the order of its table.

    Attributes:
        reference: the release's reference (verified).
        sample_ids: (n,) names of the images.
        labels: (n,) int64, positions in the cohort's classes.
        pixels: (n, 1, H, W) uint8 or uint16.
        findings: (n, K) what each image was requested to show of the cohort's findings: 1 present, 0 absent,
            NaN unknown.
        attributes: attribute -> value that was requested of each image, or None.
    """

    reference: ReleaseRef
    sample_ids: tuple[str, ...]
    labels: Ints
    pixels: StoredPixels
    findings: Floats
    attributes: dict[str, list[str | None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: npt.NDArray[np.integer]) -> StoredPixels:
        """Return stored pixels of `rows`: (n, 1, H, W) uint8 or uint16."""
        taken: StoredPixels = self.pixels[rows]
        return taken

    def rows(self, label: int) -> Ints:
        """Return the positions of one class, ascending."""
        return np.flatnonzero(self.labels == label)


def read_release(given: Path | ReleaseRef, cohort: Cohort) -> ReleasedImages:
    """Read a release and check it against the cohort that it is measured with.

    Raises:
        TamperedError: a file differs from what was recorded when the release was made.
        DataError: not a release, or classes, sizes or table do not fit the cohort.
    """
    import pandas as pd

    reference, folder = verify_reference(ReleaseRef, given), folder_of(given)
    name = next((name for name in TABLE_NAMES if (folder / name).is_file()), None)
    if name is None:
        raise DataError(f"{TABLE_NAMES[0]} is missing", field="release", remedy=_REMEDY)
    table = pd.read_parquet(folder / name)
    missing = [column for column in NEEDED_COLUMNS if column not in table.columns]
    if missing or not len(table):
        raise DataError(
            f"{name} lacks columns or rows", field="release", value=missing or None, remedy=_REMEDY
        )
    if not table["synthetic"].astype(bool).all():
        raise DataError("a row is not marked synthetic", field="release", remedy=_REMEDY)
    position = {name: i for i, name in enumerate(cohort.info.classes)}
    unknown = sorted(set(table["class"].astype(str)) - set(position))
    if unknown:
        raise DataError("classes are not those of the cohort", field="release", value=unknown, remedy=_REMEDY)
    labels = np.array([position[name] for name in table["class"].astype(str)], dtype=np.int64)
    names = table["file_name"].astype(str).tolist()
    pixels = _read_images(folder, names, cohort.info.image_size)
    findings = requested_findings(cohort.info, labels, _finding_columns(table, cohort))
    attributes = {name: _values(table[name]) for name in ATTRIBUTES if name in table.columns}
    ids = tuple(table["sample_id"].astype(str))
    return ReleasedImages(reference, ids, labels, pixels, findings, attributes)


def _finding_columns(table: pd.DataFrame, cohort: Cohort) -> dict[str, list[int | None]]:
    """Return finding -> requests, of the cohort's findings that the generator was conditioned on."""
    columns: dict[str, list[int | None]] = {}
    for name in cohort.info.findings:
        if name in table.columns:
            columns[name] = _values(table[name])
            if not set(columns[name]) <= {0, 1, None}:
                raise DataError(f"{name} is neither 0 nor 1", field="release", remedy=_REMEDY)
    return columns


def _values(column: pd.Series) -> list[Any]:
    """Return the cells of a column, None where they are empty."""
    cells = column.astype(object)
    return cells.where(cells.notna(), None).tolist()


def cohorts_behind(folder: Path) -> tuple[str, ...]:
    """Return the digests of the cohorts that the generator of a release, or of an audit, has seen.

    The first is the one that it was made from, the others are those of the checkpoints that its training
    started from. There are none if its privacy report does not say.
    """
    path = folder / PRIVACY_REPORT_NAME
    body = read_json(path, role=PRIVACY_REPORT_NAME) if path.is_file() else {}
    if not isinstance(body, dict) or not body.get("cohort_digest"):
        return ()
    earlier = body.get("earlier_cohorts", ())
    return (str(body["cohort_digest"]), *(map(str, earlier) if isinstance(earlier, list) else ()))


def _read_images(folder: Path, names: Sequence[str], image_size: tuple[int, int]) -> StoredPixels:
    root = folder.resolve()
    first = _read_image(root, names[0], image_size)
    pixels = np.empty((len(names), 1, *image_size), dtype=first.dtype)
    for i, name in enumerate(names):
        image = _read_image(root, name, image_size)
        if image.dtype != pixels.dtype:
            raise DataError(f"{name} has another bit depth than the rest", field="release", remedy=_REMEDY)
        pixels[i, 0] = image
    return pixels


def _read_image(root: Path, name: str, image_size: tuple[int, int]) -> StoredPixels:
    from PIL import Image

    path = root / name
    if not path.resolve().is_relative_to(root) or not path.is_file():
        raise DataError(f"{name} is missing or lies outside the release", field="release", remedy=_REMEDY)
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if (image.height, image.width) != tuple(image_size) or image.mode not in _MODES:
                shown = f"{image.height} x {image.width} {image.mode}"
                raise DataError(
                    f"{name} is not greyscale of the cohort's {image_size[0]} x {image_size[1]} pixels",
                    field="release",
                    value=shown,
                    remedy=_REMEDY,
                )
            if _MODES[image.mode] == 8:
                return np.array(image, dtype=np.uint8)
            return np.array(image, dtype=np.uint16)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{name} is not a readable PNG", field="release", remedy=_REMEDY) from error
