"""The formats in which a release holds its images, one record each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.arrays import Ints
from pipeline.release.images import check_images, image_names, write_images
from pipeline.release.layout import IMAGE_FOLDER

if TYPE_CHECKING:
    from pipeline.artifacts.pixels import StoredPixels

Rows = list[dict[str, Any]]
"""Rows of the metadata table, in order."""


@dataclass(frozen=True)
class ImageFormat:
    """A format in which a release may hold its images.

    Its files are part of the content digest, as the tables are.

    Attributes:
        folder: folder of the release that holds its files, and nothing else.
        write: (release folder, rows, row of each image among the candidates, function from such rows to
            stored pixels (n, 1, H, W)) -> None; writes the files.
        names: rows -> relative names of the files, at most two folders deep.
        check: (release folder, rows) -> None; raises `TamperedError` if a file is not what the rows say, or
            could carry anything beside its image.
        label: name of the files in `croissant.json`.
        description: what they are, in words.
        media_type: of each file.
        pattern: glob that finds them from the release's folder.
    """

    folder: str
    write: Callable[[Path, Rows, Ints, Callable[[Ints], StoredPixels]], None]
    names: Callable[[Rows], list[str]]
    check: Callable[[Path, Rows], None]
    label: str
    description: str
    media_type: str
    pattern: str


PNG = "png"
"""The format that every release has: the tables name its files."""

FORMATS: dict[str, ImageFormat] = {
    PNG: ImageFormat(
        IMAGE_FOLDER,
        write=write_images,
        names=image_names,
        check=check_images,
        label="image-files",
        description="Greyscale PNG, one folder per class.",
        media_type="image/png",
        pattern=f"{IMAGE_FOLDER}/*/*.png",
    ),
}
"""Name in `release.formats` -> format."""


def chosen(names: tuple[str, ...]) -> list[ImageFormat]:
    """Return the formats of these names, each once."""
    return [FORMATS[name] for name in dict.fromkeys(names)]
