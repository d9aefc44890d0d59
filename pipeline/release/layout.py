"""Names, columns and limits of a release directory: what `release` writes and `verify` expects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

FORMAT_VERSION: Final = 1

IMAGE_FOLDER = "images"
CSV_NAME = "metadata.csv"
PARQUET_NAME = "metadata.parquet/part-0.parquet"
"""A Parquet dataset of one part: pandas, pyarrow and polars read `metadata.parquet` as if it were one file.

As a file it would be a second table for the `imagefolder` of `datasets`, which takes every `metadata.csv` and
`metadata.parquet` for its own and refuses to have both."""

DATALIST_NAME = "datalist.json"
CROISSANT_NAME = "croissant.json"
PROVENANCE_NAME = "provenance.json"
CARD_NAME = "DATASET_CARD.md"
PREVIEW_NAME = "preview.png"
SUMS_NAME = "SHA256SUMS"

TABLES = (CSV_NAME, PARQUET_NAME, DATALIST_NAME)
"""The tables that, with the images, make up the content digest."""

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
"""Columns of `metadata.csv` and `metadata.parquet`, one row an image in order of class and index.

`file_name` is relative to the release, `label` the position of the class among the sorted names of the
cohort's classes, `synthetic` true in every row, `width` and `height` in pixels. No column says anything about
a real scan."""

NOT_CLINICAL = "SYNTHETIC - NOT FOR CLINICAL USE"

MAX_SIDE = 8192
MAX_IMAGES = 10_000_000
MAX_SUMS_BYTES = 2 * 2**30
MAX_TABLE_BYTES = 4 * 2**30

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def is_safe_name(name: str) -> bool:
    """Return whether a name is harmless as a folder on any system, in a table cell and on a page.

    It starts with a letter or digit (so no formula, hidden file or option), holds ASCII letters, digits,
    space, dot, dash and underscore, does not end in a dot or space, and is no device name of Windows.
    """
    return (
        _SAFE_NAME.fullmatch(name) is not None
        and not name.endswith((" ", "."))
        and _RESERVED.fullmatch(name) is None
    )


def numbered_by_name(classes: Mapping[str, int]) -> bool:
    """Return whether labels rise with the sorted class names, which are the names of the folders of images.

    Readers of class folders (torchvision, `datasets`, Keras) sort the names by their characters' numbers.
    Where the release lacks a class of the cohort, they leave its number out, and the labels here do not.
    """
    labels = [classes[name] for name in sorted(classes)]
    return labels == sorted(set(labels))


def image_name(class_name: str, sample_id: str) -> str:
    """Return the relative name of an image."""
    return f"{IMAGE_FOLDER}/{class_name}/{sample_id}.png"
