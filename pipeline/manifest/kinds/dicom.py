"""Rules of a folder of DICOM files, and reading rules for DICOM files of all sources."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.manifest.kinds.scan_rules import COLOUR, Colour, FolderRule
from pipeline.manifest.rules import Rule


class DicomReading(Rule):
    """Reading rules for DICOM files of all sources."""

    frames: Literal["refuse", "first", "middle", "each"] | Annotated[int, Field(ge=1, le=100_000)] = Field(
        "refuse",
        description="Treatment of multi-frame images: refuse them, read the first or middle frame, read each "
        "frame as a scan, or read the frame with this number (from 1).",
    )
    window: Literal["none"] | Annotated[int, Field(ge=0, le=100)] = Field(
        0, description="Index of the window or VOI LUT to apply (from 0), or none for the stored range."
    )
    headless: bool = Field(False, description="Read files without preamble or file meta information.")
    colour: Colour = Field("refuse", description=COLOUR)


class DicomSource(FolderRule, DicomReading):
    """Folder of DICOM files."""

    kind: Literal["dicom"]
