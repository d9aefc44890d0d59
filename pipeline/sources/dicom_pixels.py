"""Decodes the frames of a DICOM file, one at a time, to the values that are stored in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanRefusedError
from pipeline.sources.dicom_codestream import alone, bare, check_codestream, encoded_frames, with_plain_scan
from pipeline.sources.dicom_header import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, Header, quiet
from pipeline.sources.dicom_layout import Layout

Stored = npt.NDArray[Any]
"""(H, W) or (H, W, 3) integers, float32 or float64."""

MAX_PACKING = 200
"""Most values that a compressed byte may stand for: no radiograph comes near, and a decoder that is given a
large size and next to no data works on it all the same."""

_SMALL = 2**22
"""Values that take no time worth a check."""

_NATIVE = {IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN}
_RLE = "1.2.840.10008.1.2.5"
_JPEG = "1.2.840.10008.1.2.4."
_EXTENDED = _JPEG + "51"
_RETIRED = {_JPEG + number for number in ("52", "53", "54", "55", "56")}
"""Retired lossy processes (PS3.6 A), which the decoder of the extended process tells by their codestreams."""


def decoded_frames(header: Header, layout: Layout, indices: Sequence[int]) -> Iterator[tuple[Stored, str]]:
    """Yield the stored values of the chosen frames and their photometric interpretation after decoding.

    Values have their unused bits removed; a view of the file's bytes is yielded where nothing has to change.

    Raises:
        ScanRefusedError: truncated, corrupt, or compressed in a way that no installed decoder reads.
    """
    try:
        if header.syntax in _NATIVE:
            for index in indices:
                yield _native(header, layout, index), layout.photometric
        else:
            with quiet():
                decoder = _decoder(header.syntax)
            for frame in encoded_frames(header, layout, indices):
                with quiet():
                    pixels = _decompress(decoder, header.syntax, frame, layout)
                yield pixels
    except ScanRefusedError:
        raise
    except MemoryError as error:
        raise ScanRefusedError("image too large") from error
    # pydicom and its decoders raise many kinds on broken pixels (ValueError, struct.error, ...).
    except Exception as error:
        raise ScanRefusedError("pixel data truncated or corrupt") from error


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
        pixels = pixels.reshape(layout.rows, layout.columns)
    elif layout.planar:
        pixels = pixels.reshape(layout.samples, layout.rows, layout.columns).transpose(1, 2, 0)
    else:
        pixels = pixels.reshape(layout.rows, layout.columns, layout.samples)
    return pixels if layout.is_float else _own_bits(pixels, layout)


def _own_bits(pixels: Stored, layout: Layout) -> Stored:
    """Remove bits that are not the value's own: an old embedded overlay, or what lies below the value."""
    unused = layout.allocated - layout.stored
    if not unused:
        return pixels
    below = layout.high + 1 - layout.stored
    if layout.signed:
        half = 1 << (layout.stored - 1)
        if not below and -half <= int(pixels.min()) and int(pixels.max()) < half:
            return pixels
        return (pixels << (unused - below)) >> unused
    if not below and not int(pixels.max()) >> layout.stored:
        return pixels
    return (pixels >> below) & pixels.dtype.type((1 << layout.stored) - 1)


def _native_with_pydicom(header: Header, layout: Layout, index: int) -> Stored:
    """Return a frame of single bits, of subsampled colour, or of bytes in swapped words."""
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
    if syntax != _RLE:
        check_codestream(frame := bare(frame), layout)
    if syntax == _EXTENDED or syntax in _RETIRED:
        frame = with_plain_scan(frame)
    try:
        pixels, found = decoder.as_array(alone(frame), index=0, raw=True, **_options(layout, 1, "OB"))
    except RuntimeError as error:
        raise ScanRefusedError("compression cannot be decoded") from error
    except BaseException as error:
        # The RLE decoder, written in Rust, panics on runs that are too long: no `Exception`, and not public.
        if type(error).__name__ != "PanicException":
            raise
        raise ScanRefusedError("compression cannot be decoded") from error
    return pixels, str(found["photometric_interpretation"])


def _decoder(syntax: str) -> Any:
    """Return pydicom's decoder of a transfer syntax.

    Raises:
        ScanRefusedError: there is none, or its plug-in is not installed.
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
    }
