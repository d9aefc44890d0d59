"""Patient tables: which patient a row of an archive shows, believed only where the images agree."""

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
    """Return two maps from `part/row` to patient: what the images confirm, and what the table merely claims.

    Args:
        rule: the manifest's patient rule, with `table`, `keys` = split and index, and `column`.
        table: the CSV file.
        archive: the npz file the patients are wanted for.
        check: an npz file with the images the table was made for, or None: believe every row.

    Raises:
        DataError: the table or the archive for the check cannot be used.
    """
    found = ScanTable(table, ("split", "index"), (rule.column or "",), field="patient.table")
    ids = {key: row[0] for key, row in found.rows.items() if row[0] and not names_nobody(row[0])}
    scans = Counter(ids.values())
    nobody = crowded(scans, {text for text in scans if may_name_nobody(text)})
    patients = {key: rule.prefix + text for key, text in ids.items() if text not in nobody}
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
            "no image agrees with the patient table's images",
            field="patient.verify_images",
            remedy="The table belongs to another archive; correct or remove it.",
        )
    confirmed = {key: patient for key, patient in patients.items() if key in agreeing}
    return confirmed, {key: patient for key, patient in patients.items() if key not in agreeing}


def _agreement(ours: medmnist.RowStream, theirs: medmnist.RowStream) -> npt.NDArray[np.float64]:
    """Return the correlation of every row with the other archive's, 0 for rows that only we have."""
    out = np.zeros(ours.shape[0])
    start = 0
    for images, references in zip(ours.blocks(_BLOCK), theirs.blocks(_BLOCK), strict=False):
        count = min(len(images), len(references))
        out[start : start + count] = correlations(images[:count], references[:count])
        start += count
    return out


def correlations(
    images: npt.NDArray[np.generic], references: npt.NDArray[np.generic]
) -> npt.NDArray[np.float64]:
    """Return the Pearson correlation of each image with the reference of the same row.

    Args:
        images: (N, H, W).
        references: (N, R, S); the larger of the two is area-averaged to the smaller.

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
