"""Names, columns and limits of a release directory: what `release` writes and `verify` expects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

FORMAT_VERSION: Final = 1

IMAGE_FOLDER = "images"
CSV_NAME = "metadata.csv"
PARQUET_NAME = "metadata.parquet/part-0.parquet"
"""A Parquet dataset of one part: pandas, pyarrow and polars read `metadata.parquet` like a single file.

As a file it would conflict with `metadata.csv`: the `imagefolder` of `datasets` reads both names and refuses
to have both."""

DATALIST_NAME = "datalist.json"
CROISSANT_NAME = "croissant.json"
PROVENANCE_NAME = "provenance.json"
CARD_NAME = "DATASET_CARD.md"
PREVIEW_NAME = "preview.png"
SUMS_NAME = "SHA256SUMS"

TABLES = (CSV_NAME, PARQUET_NAME, DATALIST_NAME)
"""The tables that, together with the images, determine the content digest."""

COLUMNS = (
    "sample_id",
    "file_name",
    "class",
    "label",
    "synthetic",
    "seed",
    "checkpoint_digest",
    "sampler",
    "num_steps",
    "guidance_scale",
    "width",
    "height",
    "format_version",
)
"""Columns of `metadata.csv` and `metadata.parquet`, with one row per image, sorted by class and index.

`file_name` is relative to the release. `label` is the index of the class among the sorted names of the
cohort's classes. `synthetic` is true in every row. `width` and `height` are in pixels. No column describes a
real scan."""

NOT_CLINICAL = "SYNTHETIC - NOT FOR CLINICAL USE"

MAX_SIDE = 8192
MAX_IMAGES = 10_000_000
MAX_SUMS_BYTES = 2 * 2**30
MAX_TABLE_BYTES = 4 * 2**30

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def is_safe_name(name: str) -> bool:
    """Return whether a name is safe as a folder on any system, in a table cell and on a page.

    A safe name starts with a letter or digit (so it is not a formula, hidden file or option), consists of
    ASCII letters, digits, space, dot, dash and underscore, does not end in a dot or space, and is not a
    Windows device name.
    """
    return (
        _SAFE_NAME.fullmatch(name) is not None
        and not name.endswith((" ", "."))
        and _RESERVED.fullmatch(name) is None
    )


def numbered_by_name(classes: Mapping[str, int]) -> bool:
    """Return whether labels increase with the sorted class names, which name the image folders.

    Loaders of class folders (torchvision, `datasets`, Keras) sort the names by code point. If the release
    lacks a class of the cohort, these loaders skip its number; the labels here do not.
    """
    labels = [classes[name] for name in sorted(classes)]
    return labels == sorted(set(labels))


def image_name(class_name: str, sample_id: str) -> str:
    """Return the name of an image relative to the release."""
    return f"{IMAGE_FOLDER}/{class_name}/{sample_id}.png"
