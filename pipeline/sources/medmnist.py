"""MedMNIST archives: one npz file with images and labels by part, each row a scan."""

from __future__ import annotations

import functools
import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import DataError, ScanRefusedError
from pipeline.sources.base import Scan, ScanTask

PARTS = ("train", "val", "test")
WHOLE = "all"
"""Name of the only part of an archive with plain `images` and `labels`."""

MAX_UNPACKED_BYTES = 16 * 2**30

Arrays = dict[str, npt.NDArray[np.generic]]


def parts_of(path: Path) -> list[str]:
    """Return the parts that an archive holds, without unpacking it.

    Raises:
        DataError: not an npz file, without images, or it would unpack beyond all bounds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {entry.filename.removesuffix(".npy"): entry.file_size for entry in archive.infolist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(
            "not a readable npz file", field="source.path", value=str(path), remedy="Fetch it again."
        ) from error
    if sum(members.values()) > MAX_UNPACKED_BYTES:
        raise DataError("unpacks to too many bytes", field="source.path", remedy="Split the archive.")
    found = [part for part in PARTS if {f"{part}_images", f"{part}_labels"} <= set(members)]
    if not found and {"images", "labels"} <= set(members):
        found = [WHOLE]
    if not found:
        raise DataError(
            "holds neither train_images and train_labels nor images and labels",
            field="source.path",
            value=str(path),
            remedy="Name a MedMNIST npz file.",
        )
    return found


@functools.lru_cache(maxsize=8)
def load_part(path: str, part: str, what: str) -> npt.NDArray[np.generic]:
    """Return one array of an archive; kept, because each process reads many rows of it.

    Args:
        path: the npz file.
        part: one of `parts_of(path)`.
        what: `images` or `labels`.

    Returns:
        (N, H, W) uint8 or uint16 images, or (N,) labels.

    Raises:
        DataError: the array cannot be read or has another shape.
    """
    key = what if part == WHOLE else f"{part}_{what}"
    try:
        with np.load(path, allow_pickle=False) as archive:
            array = archive[key]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
        raise DataError(
            f"{key} cannot be read", field="source.path", remedy="Fetch the file again."
        ) from error
    if what == "labels":
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            raise DataError(
                f"{key} must hold one whole number a row",
                field="source.path",
                remedy="Name a single-label archive.",
            )
        return array
    if array.ndim != 3 or array.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{key} must be (N, H, W) uint8 or uint16", field="source.path", remedy="Name a 2D grey archive."
        )
    return array


def rows(path: Path) -> Iterator[tuple[str, int, str]]:
    """Yield (part, row, label number as text) of every image, parts in published order."""
    for part in parts_of(path):
        labels = load_part(str(path), part, "labels")
        if len(labels) != len(load_part(str(path), part, "images")):
            raise DataError(
                f"{part}: images and labels differ in number",
                field="source.path",
                remedy="Fetch the file again.",
            )
        for row, label in enumerate(labels.tolist()):
            yield part, row, str(label)


def read(task: ScanTask) -> Scan:
    """Return one row of an archive; its digest is taken over the row's bytes."""
    part, _, row = task.name.partition("/")
    images = load_part(task.rule.root, part, "images")
    number = int(row)
    if number >= len(images):
        raise ScanRefusedError("row missing")
    pixels = np.ascontiguousarray(images[number])
    top = float(np.iinfo(pixels.dtype).max)
    return Scan(
        pixels=pixels,
        value_range=(0.0, top),
        sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
        source_format="npz",
    )
