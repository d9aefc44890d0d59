"""Decodes the frames of a DICOM file to stored values, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import ScanRefusedError
from pipeline.sources.dicom.bits import Stored, overlay_bits, own_bits
from pipeline.sources.dicom.codestream import (
    check_codestream,
    check_uncompressed,
    encapsulated,
    encoded_frames,
    is_jpeg_2000,
    with_standard_selection,
    without_jp2_boxes,
)
from pipeline.sources.dicom.header import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, Header, quiet
from pipeline.sources.dicom.layout import Layout
from pipeline.sources.images.jpeg_scans import scans_of, with_foreign_bytes

MAX_PACKING = 200
"""Largest number of values per compressed byte; that of radiographs is far smaller. Decoders would spend
their full time on a large image with almost no data."""

_SMALL = 2**22
"""Number of values per frame that are decoded without this check."""

_PADDING_BITS = 256
"""Largest padding after the pixels, in bits; it may be larger than a whole frame of a tiny image."""

_NATIVE = {IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN}
_RLE = "1.2.840.10008.1.2.5"
_JPEG = "1.2.840.10008.1.2.4."
_EXTENDED = _JPEG + "51"
_RETIRED = {_JPEG + number for number in ("52", "53", "54", "55", "56")}
"""Retired lossy processes (PS3.6 A); the decoder of the extended process also reads their codestreams."""


class Decoded(NamedTuple):
    """A decoded frame.

    Attributes:
        pixels: (H, W) or (H, W, 3) stored values.
        photometric: photometric interpretation after decoding.
        exceeds_bits: whether values exceed `BitsStored` bits.
    """

    pixels: Stored
    photometric: str
    exceeds_bits: bool


def decoded_frames(header: Header, layout: Layout, indices: Sequence[int]) -> Iterator[Decoded]:
    """Yield the stored values of the chosen frames, without unused bits.

    The pixels are a view of the file's bytes if no value has to change.

    Raises:
        ScanRefusedError: the pixel data are truncated or corrupt, or no installed decoder reads them.
    """
    overlays = overlay_bits(header)
    try:
        if header.syntax in _NATIVE:
            check_uncompressed(header)
            _check_length(header, layout)
            for index in indices:
                pixels, exceeds_bits = own_bits(_native(header, layout, index), layout, overlays)
                yield Decoded(pixels, layout.photometric, exceeds_bits)
        elif layout.is_float:
            raise ScanRefusedError("compressed floating-point pixels")
        else:
            with quiet():
                decoder = _decoder(header.syntax)
            for frame in encoded_frames(header, layout, indices):
                with quiet():
                    pixels, photometric = _decompress(decoder, header.syntax, frame, layout)
                # Codestreams hold values instead of words, so they have no overlay bits.
                codestream = header.syntax != _RLE
                pixels, exceeds_bits = own_bits(
                    pixels, layout, 0 if codestream else overlays, codestream=codestream
                )
                yield Decoded(pixels, photometric, exceeds_bits)
    except ScanRefusedError:
        raise
    except MemoryError as error:
        raise ScanRefusedError("image too large") from error
    # pydicom and its decoders raise many exception types for corrupt pixels (ValueError, struct.error, ...).
    except Exception as error:
        raise ScanRefusedError("pixel data truncated or corrupt") from error


def _check_length(header: Header, layout: Layout) -> None:
    """Refuse uncompressed pixel data that hold at least one frame more than the header says."""
    bits = layout.rows * layout.columns * layout.samples * layout.allocated
    excess = 8 * header.length - layout.frames * bits
    if excess >= bits and excess > _PADDING_BITS:
        raise ScanRefusedError("more pixel data than the header says")


def _native(header: Header, layout: Layout, index: int) -> Stored:
    """Return an uncompressed frame (PS3.5, 8.1 and 8.2)."""
    count = layout.rows * layout.columns * layout.samples
    big = header.syntax == BIG_ENDIAN
    subsampled = layout.photometric == "YBR_FULL_422"
    if layout.allocated == 1 or subsampled or (big and layout.allocated == 8):
        return _native_with_pydicom(header, layout, index)
    width = layout.allocated // 8
    if (index + 1) * count * width > header.length:
        raise ScanRefusedError("pixel data truncated or corrupt")
    kind = "f" if layout.is_float else "i" if layout.signed else "u"
    pixels: Stored = np.frombuffer(
        header.pixels,
        dtype=f"{'>' if big else '<'}{kind}{width}",
        count=count,
        offset=header.start + index * count * width,
    )
    if not pixels.dtype.isnative:
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    if layout.samples == 1:
        return pixels.reshape(layout.rows, layout.columns)
    if layout.planar:
        return pixels.reshape(layout.samples, layout.rows, layout.columns).transpose(1, 2, 0)
    return pixels.reshape(layout.rows, layout.columns, layout.samples)


def _native_with_pydicom(header: Header, layout: Layout, index: int) -> Stored:
    """Return a frame of single bits, subsampled colour, or bytes in big-endian words."""
    bits = layout.allocated * (2 if layout.photometric == "YBR_FULL_422" else layout.samples)
    if (index + 1) * layout.rows * layout.columns * bits > 8 * header.length:
        raise ScanRefusedError("pixel data truncated or corrupt")
    with quiet():
        pixels, _ = _decoder(header.syntax).as_array(
            memoryview(header.pixels)[header.start : header.start + header.length],
            index=index,
            raw=True,
            **_options(layout, layout.frames, header.pixel_vr),
        )
    return pixels


def _decompress(decoder: Any, syntax: str, frame: bytes, layout: Layout) -> tuple[Stored, str]:
    if len(frame) * MAX_PACKING + _SMALL < layout.rows * layout.columns * layout.samples:
        raise ScanRefusedError("pixel data truncated or corrupt")
    if syntax == _RLE:
        return _decoded(decoder, frame, layout)
    check_codestream(frame := without_jp2_boxes(frame), layout)
    if is_jpeg_2000(frame):
        return _decoded(decoder, frame, layout)
    if syntax == _EXTENDED or syntax in _RETIRED:
        frame = with_standard_selection(frame)
    scans = scans_of(frame)
    scans.check()
    pixels, photometric = _decoded(decoder, frame, layout)
    try:
        again, _ = _decoded(decoder, with_foreign_bytes(frame, scans), layout)
    except ScanRefusedError as error:
        raise ScanRefusedError("pixel data truncated or corrupt") from error
    if not np.array_equal(pixels, again):
        raise ScanRefusedError("pixel data truncated or corrupt")
    return pixels, photometric


def _decoded(decoder: Any, frame: bytes, layout: Layout) -> tuple[Stored, str]:
    try:
        pixels, found = decoder.as_array(encapsulated(frame), index=0, raw=True, **_options(layout, 1, "OB"))
    except RuntimeError as error:
        raise ScanRefusedError("compression cannot be decoded") from error
    except BaseException as error:
        # The Rust RLE decoder panics on runs that are too long. Its exception is private and no `Exception`.
        if type(error).__name__ != "PanicException":
            raise
        raise ScanRefusedError("compression cannot be decoded") from error
    return pixels, str(found["photometric_interpretation"])


def _decoder(syntax: str) -> Any:
    """Return pydicom's decoder for a transfer syntax.

    Raises:
        ScanRefusedError: pydicom has no decoder, or its plug-in is not installed.
    """
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    try:
        decoder = get_decoder(UID(_EXTENDED if syntax in _RETIRED else syntax))
    except NotImplementedError as error:
        raise ScanRefusedError("compression not supported") from error
    if not decoder.is_available:
        raise ScanRefusedError("decoder not installed")
    return decoder


def _options(layout: Layout, frames: int, pixel_vr: str) -> dict[str, Any]:
    return {
        "rows": layout.rows,
        "columns": layout.columns,
        "number_of_frames": frames,
        "samples_per_pixel": layout.samples,
        "photometric_interpretation": layout.photometric,
        "planar_configuration": layout.planar,
        "bits_allocated": layout.allocated,
        "bits_stored": layout.stored,
        "pixel_representation": int(layout.signed),
        "pixel_keyword": "PixelData",
        "pixel_vr": pixel_vr,
        "allow_excess_frames": False,
        # pydicom would wrap values that exceed `BitsStored`; `own_bits` handles them.
        "correct_unused_bits": False,
    }
