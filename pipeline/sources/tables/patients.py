"""Patient tables of archives, whose rows are used only if the images agree."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import DataError
from pipeline.manifest.rules import PatientRule
from pipeline.sources import medmnist
from pipeline.sources.images.resize import area_average
from pipeline.sources.tables.patient_ids import crowded, may_name_nobody, names_nobody
from pipeline.sources.tables.tables import ScanTable

_BLOCK = 256


def patient_of_rows(
    rule: PatientRule, table: Path, archive: Path, check: Path | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Return two mappings `part/row` -> patient: confirmed by the images, and only claimed by the table.

    Args:
        rule: the manifest's patient rule, with `table`, `keys` = split and index, and `column`.
        table: the CSV file.
        archive: the npz file of the source.
        check: the npz file for which the table was made, or None to confirm every row.

    Raises:
        DataError: the table or `check` cannot be used, or no image agrees.
    """
    found = ScanTable(table, ("split", "index"), (rule.column or "",), field="patient.table")
    ids = {key: row[0] for key, row in found.rows.items() if row[0] and not names_nobody(row[0])}
    scans = Counter(ids.values())
    placeholders = crowded(scans, {text for text in scans if may_name_nobody(text)})
    patients = {key: rule.prefix + text for key, text in ids.items() if text not in placeholders}
    if check is None or rule.verify_images is None:
        return patients, {}
    agreeing: set[str] = set()
    for part in medmnist.parts_of(archive):
        if part not in medmnist.parts_of(check):
            continue
        agreement = _agreement(medmnist.RowStream(archive, part), medmnist.RowStream(check, part))
        good = np.flatnonzero(agreement >= rule.verify_images.min_correlation)
        agreeing.update(f"{part}/{row}" for row in good.tolist())
    if not agreeing:
        raise DataError(
            "no image agrees with the images of the patient table",
            field="patient.verify_images",
            remedy="The table was made for another archive: correct or remove it.",
        )
    confirmed = {key: patient for key, patient in patients.items() if key in agreeing}
    return confirmed, {key: patient for key, patient in patients.items() if key not in agreeing}


def _agreement(images: medmnist.RowStream, references: medmnist.RowStream) -> npt.NDArray[np.float64]:
    """Return the correlation of every image with the reference of the same row, 0 without a reference."""
    out = np.zeros(images.shape[0])
    start = 0
    for block, reference in zip(images.blocks(_BLOCK), references.blocks(_BLOCK), strict=False):
        count = min(len(block), len(reference))
        out[start : start + count] = correlations(block[:count], reference[:count])
        start += count
    return out


def correlations(
    images: npt.NDArray[np.generic], references: npt.NDArray[np.generic]
) -> npt.NDArray[np.float64]:
    """Return the Pearson correlation of each image with the reference of the same row.

    Args:
        images: (N, H, W).
        references: (N, R, S); the larger size is area-averaged to the smaller one.

    Returns:
        (N,) in [-1, 1]; 0 where an image is constant.
    """
    height = min(images.shape[1], references.shape[1])
    width = min(images.shape[2], references.shape[2])
    ours, theirs = (
        np.stack([area_average(image, height, width).ravel() for image in stack])
        for stack in (images, references)
    )
    ours -= ours.mean(axis=1, keepdims=True)
    theirs -= theirs.mean(axis=1, keepdims=True)
    scale = np.sqrt((ours**2).sum(axis=1) * (theirs**2).sum(axis=1))
    product = (ours * theirs).sum(axis=1)
    return np.divide(product, scale, out=np.zeros(len(images)), where=scale > 0)
