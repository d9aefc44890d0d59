"""The image pixel module of a DICOM file (PS3.3 C.7.6.3), checked before anything is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import ScanRefusedError
from pipeline.sources.base import check_size
from pipeline.sources.dicom.header import Header

GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
PALETTE = "PALETTE COLOR"
COLOURS = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})

MAX_FRAMES = 10_000
MAX_TOTAL_PIXELS = 2**31
"""Largest number of frames, and of pixels in all frames together, that are decoded from one file."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the pixels of a file are laid out.

    Attributes:
        rows: height of a frame in pixels.
        columns: width of a frame in pixels.
        samples: values per pixel, 1 or 3.
        photometric: photometric interpretation.
        planar: 0 for colour by pixel, 1 for colour by plane.
        frames: number of frames.
        allocated: bits allocated per value.
        stored: bits stored per value.
        high: position of the highest stored bit.
        signed: whether values are signed.
        is_float: whether values are floating-point numbers.
    """

    rows: int
    columns: int
    samples: int
    photometric: str
    planar: int
    frames: int
    allocated: int
    stored: int
    high: int
    signed: bool
    is_float: bool


def layout_of(header: Header) -> Layout:
    """Return the layout of a file's pixels.

    Raises:
        ScanRefusedError: the file holds no image, or its layout is missing, contradictory or out of bounds.
    """
    if header.is_directory:
        raise ScanRefusedError("a DICOM directory, not an image")
    if not header.keyword:
        raise ScanRefusedError("a DICOM object without pixels")
    if "Rows" not in header.values or "Columns" not in header.values:
        raise ScanRefusedError("image size missing")
    is_float = header.keyword != "PixelData"
    width = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(header.keyword, 0)
    allocated = width or header.number("BitsAllocated", 0)
    stored = width or header.number("BitsStored", allocated)
    representation = 0 if is_float else header.number("PixelRepresentation", 0)
    layout = Layout(
        rows=header.number("Rows", 0),
        columns=header.number("Columns", 0),
        samples=header.number("SamplesPerPixel", 1),
        photometric=header.text("PhotometricInterpretation"),
        planar=header.number("PlanarConfiguration", 0),
        frames=header.number("NumberOfFrames", 1),
        allocated=allocated,
        stored=stored,
        high=width - 1 if is_float else header.number("HighBit", stored - 1),
        signed=representation == 1,
        is_float=is_float,
    )
    _check(layout, representation)
    return layout


def _check(layout: Layout, representation: int) -> None:
    check_size(layout.rows, layout.columns)
    if layout.frames < 1:
        raise ScanRefusedError("number of frames below 1")
    if not layout.photometric:
        raise ScanRefusedError("photometric interpretation missing")
    if layout.photometric not in GREY | COLOURS | {PALETTE}:
        raise ScanRefusedError("colour model not supported")
    if layout.samples != (3 if layout.photometric in COLOURS else 1):
        raise ScanRefusedError("samples per pixel contradict the photometric interpretation")
    if layout.is_float:
        if layout.samples != 1 or layout.photometric == PALETTE:
            raise ScanRefusedError("pixel layout not supported")
    elif layout.allocated not in {1, 8, 16, 32}:
        raise ScanRefusedError("bits allocated missing or not supported")
    elif layout.allocated == 32 and layout.samples != 1:
        raise ScanRefusedError("colour samples of more than 16 bits")
    if not 1 <= layout.stored <= layout.high + 1 <= layout.allocated:
        raise ScanRefusedError("bits stored and high bit contradict each other")
    if representation not in {0, 1}:
        raise ScanRefusedError("pixel representation not supported")
    if layout.planar not in {0, 1}:
        raise ScanRefusedError("planar configuration not supported")


def chosen_frames(layout: Layout, frames: str) -> Sequence[int]:
    """Return the indices, counted from 0, of the frames that the manifest selects.

    Args:
        layout: the file's layout.
        frames: as in `DicomOptions`.

    Raises:
        ScanRefusedError: the file has several frames but the manifest selects none, the selected frame does
            not exist, or there are too many frames.
    """
    if frames == "refuse" and layout.frames != 1:
        raise ScanRefusedError("several frames")
    if frames == "each":
        pixels = layout.frames * layout.rows * layout.columns
        if layout.frames > MAX_FRAMES or pixels > MAX_TOTAL_PIXELS:
            raise ScanRefusedError("too many frames")
        return range(layout.frames)
    if frames in {"first", "refuse"}:
        return (0,)
    if frames == "middle":
        return (layout.frames // 2,)
    if not 1 <= int(frames) <= layout.frames:
        raise ScanRefusedError("frame missing")
    return (int(frames) - 1,)
