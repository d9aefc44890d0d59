"""Rules of a folder of image files."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.manifest.kinds.scan_rules import COLOUR, Colour, UntaggedRule


class ImageSource(UntaggedRule):
    """Folder of PNG, JPEG or TIFF files (8 or 16 bit, grey)."""

    kind: Literal["images"]
    colour: Colour = Field("refuse", description=COLOUR)
