"""The audited set: candidates of the sample stage, or a folder of images from another generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.arrays import Ints
from pipeline.artifacts.candidates import CANDIDATE_COLUMNS, Candidates, count_from_scans, sample_id
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.pixels import StoredPixels, stored_dtype
from pipeline.errors import DataError
from pipeline.identity import Pseudonyms, load_key
from pipeline.privacy.audited_files import find_images
from pipeline.records import CandidatesRef
from pipeline.stage import REFERENCE_NAME, folder_of, verify_reference
from pipeline.storage import read_json

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
FILE_COLUMN = "file"
"""Column of the private audit table: path of another generator's image within the audited folder."""
MAX_FILE_BYTES = 64 * 2**20
MAX_PIXELS = 64_000_000
_DEEPEST = 65535.0


@dataclass(frozen=True)
class AuditedSet:
    """Candidates in the form that the gate uses.

    Attributes:
        take: rows -> stored pixels (n, 1, H, W) of the cohort's size.
        table: one row per candidate, columns CANDIDATE_COLUMNS.
        digest: content digest of the set.
        asked: class name -> requested number of images; None requests as many as pass.
        checkpoint_digest: digest of the checkpoint that made the candidates, empty if foreign.
        foreign: whether another generator made the candidates.
        notes: notes on how the candidates were read.
        num_unread: files of the folder that were not looked at and may be images. If it is not 0, the verdict
            rests on a part of the folder.
    """

    take: Callable[[Ints], StoredPixels]
    table: pd.DataFrame
    digest: str
    asked: dict[str, int | None]
    checkpoint_digest: str
    foreign: bool
    notes: tuple[str, ...] = ()
    num_unread: int = 0


def open_audited(given: Path | CandidatesRef, cohort: Cohort) -> AuditedSet:
    """Open and verify a candidate set against the cohort's classes and image size.

    Raises:
        DataError: not a candidate set, of another image size, or of classes that the cohort does not have.
        TamperedError: a content file differs from what `sample` recorded.
    """
    folder = folder_of(given)
    audited = _own(given) if (folder / REFERENCE_NAME).is_file() else _foreign(folder, cohort)
    if not len(audited.table):
        raise DataError("holds no candidates", field="candidates", remedy="Sample at least one image.")
    shape, wanted = audited.take(np.array([0]))[0].shape[-2:], cohort.info.image_size
    if tuple(shape) != tuple(wanted):
        raise DataError(
            f"candidates are not of the cohort's size {tuple(wanted)}",
            field="candidates",
            value=tuple(shape),
            remedy="Pass the cohort that the generator was trained on.",
        )
    classes = list(cohort.info.classes)
    for name, label in audited.table[["class", "label"]].drop_duplicates().itertuples(index=False):
        if name not in classes:
            raise DataError(
                "the cohort does not have this class",
                field="candidates",
                value=str(name),
                remedy="Pass the cohort that the generator was trained on.",
            )
        if classes.index(name) != label:
            raise DataError(
                f"this class has label {label}, but {classes.index(name)} in the cohort",
                field="candidates",
                value=str(name),
                remedy="Sample with a checkpoint that was trained on this cohort.",
            )
    return audited


def _own(given: Path | CandidatesRef) -> AuditedSet:
    folder = verify_reference(CandidatesRef, given).path
    candidates = Candidates(folder)
    body = read_json(folder / "inputs.json", role="candidates")
    per_class = body.get("settings", {}).get("per_class") if isinstance(body, dict) else None
    present = sorted(str(name) for name in candidates.table["class"].unique())
    if not isinstance(per_class, int) or per_class < 1:
        raise DataError("per_class is missing", field="candidates/inputs.json", remedy="Sample again.")
    digests = candidates.table["checkpoint_digest"].unique()
    scans = count_from_scans(candidates.table)
    note = f"{scans} of {len(candidates)} candidates are edits of real scans: the set is never released"
    return AuditedSet(
        take=candidates.take,
        table=candidates.table,
        digest=candidates.digest,
        asked=dict.fromkeys(present, per_class),
        checkpoint_digest=str(digests[0]) if len(digests) == 1 else "",
        foreign=False,
        notes=(note,) if scans else (),
    )


def _foreign(folder: Path, cohort: Cohort) -> AuditedSet:
    """Read the images below class-named sub-folders, sorted by name; larger images are area-averaged."""
    import pandas as pd

    found = find_images(folder)
    paths = found.images
    classes = list(cohort.info.classes)
    names, rows, resized = [], [], 0
    pixels = np.empty((len(paths), 1, *cohort.info.image_size), dtype=stored_dtype(cohort.info.bit_depth))
    for i, path in enumerate(paths):
        image, changed = _read(path, cohort)
        pixels[i, 0], resized = image, resized + changed
        names.append(path.relative_to(folder).parts[0])
    hashes = found.hashes()
    index: dict[str, int] = {}
    for name in names:
        if name not in classes:
            raise DataError(
                "the cohort does not have this class", field="candidates", value=name,
                remedy=f"Name the sub-folders after the cohort's classes: {', '.join(classes)}.",
            )  # fmt: skip
        number = index.get(name, 0)
        index[name] = number + 1
        rows.append((sample_id(name, number), name, classes.index(name), number, None, "foreign", 0, 0.0, ""))
    table = pd.DataFrame(rows, columns=list(CANDIDATE_COLUMNS))
    table["seed"] = table["seed"].astype("Int64")
    table[FILE_COLUMN] = [path for path, _ in hashes]
    notes = ["images that the other generator made and that were not given to this audit"]
    notes += found.notes()
    if resized:
        notes.append(f"{resized} of {len(paths)} images were resized by area averaging")
    return AuditedSet(
        take=lambda wanted: pixels[wanted],
        table=table,
        digest=found.digest(hashes),
        asked=dict.fromkeys(sorted(index)),
        checkpoint_digest="",
        foreign=True,
        notes=tuple(notes),
        num_unread=len(found.unread),
    )


def _read(path: Path, cohort: Cohort) -> tuple[StoredPixels, bool]:
    from PIL import Image, UnidentifiedImageError

    where = f"candidates, image {Pseudonyms(load_key()).scan(path.name)}"
    if path.stat().st_size > MAX_FILE_BYTES:
        raise DataError("the file is too large", field=where, remedy="Use image files of up to 64 MiB.")
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError("has too many pixels", field=where, remedy="Shrink the image.")
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise DataError(
                    "holds several images, of which only one would be audited",
                    field=where, value=frames, remedy="Write each image to its own file.",
                )  # fmt: skip
            deep = image.mode.startswith("I")
            values = np.asarray(image if deep else image.convert("L"), dtype=np.float32)
            if image.mode == "F" or values.max() > _DEEPEST or values.min() < 0:
                raise DataError(
                    "the pixels are not integers of 8 or 16 bits",
                    field=where, value=image.mode, remedy="Write the image as PNG.",
                )  # fmt: skip
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            "cannot be read as PNG, JPEG, WebP, TIFF or BMP", field=where, remedy="Write the image again."
        ) from error
    height, width = cohort.info.image_size
    top = _DEEPEST if deep else 255.0
    target = 255.0 if cohort.info.bit_depth == 8 else 65535.0
    changed = values.shape != (height, width)
    if changed:
        if values.shape[0] * width != values.shape[1] * height or values.shape[0] < height:
            raise DataError(
                f"is smaller than the cohort's {height} x {width} pixels, or has another aspect ratio",
                field=where, value=values.shape, remedy="Generate images of the cohort's size.",
            )  # fmt: skip
        values = np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BOX))
    scaled = np.rint(values * (target / top))
    return scaled.astype(stored_dtype(cohort.info.bit_depth)), changed
