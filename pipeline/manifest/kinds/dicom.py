"""The rules of a folder of DICOM files, and how DICOM files are read wherever they lie."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.manifest.kinds.scan_rules import COLOUR, Colour, FolderRule
from pipeline.manifest.rules import Rule


class DicomReading(Rule):
    """How DICOM files are read, wherever they lie."""

    frames: Literal["refuse", "first", "middle", "each"] | Annotated[int, Field(ge=1, le=100_000)] = Field(
        "refuse",
        description="What to take of an image of several frames: refuse it, its first or middle frame, each "
        "frame as a scan, or the frame of that number (1 the first).",
    )
    window: Literal["none"] | Annotated[int, Field(ge=0, le=100)] = Field(
        0,
        description="Which of several windows or VOI LUTs to show (0 the first), or none: the stored range.",
    )
    headless: bool = Field(False, description="Read files without preamble or file meta information.")
    colour: Colour = Field("refuse", description=COLOUR)


class DicomSource(FolderRule, DicomReading):
    """A folder of DICOM files."""

    kind: Literal["dicom"]
