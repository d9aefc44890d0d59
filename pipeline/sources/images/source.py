"""Image files: PNG, JPEG and TIFF, grey, 8 or 16 bit, decoded with Pillow inside fixed bounds."""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanRefusedError
from pipeline.sources.base import ImageOptions, Scan, ScanTask, check_size
from pipeline.sources.images.data import check_png, check_tiff
from pipeline.sources.images.jpeg_scans import scans_of, with_foreign_bytes, without_end
from pipeline.sources.images.modes import (
    check_opaque,
    check_samples,
    check_whole_numbers,
    orientation_of,
    upright,
)

FORMATS = ("PNG", "JPEG", "TIFF")
MAX_WIDE_PIXELS = 60_000_000
"""Largest image that takes over six bytes a pixel to decode: of 32 bits, or a progressive JPEG."""

_JPEG = b"\xff\xd8"
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
"""TIFF 6.0, PhotometricInterpretation; Pillow undoes it for 8 bits only."""

COLOUR_TOLERANCE = 8.0
"""Largest mean difference between colour channels (of 255) of an image that still counts as grey."""


def read(task: ScanTask, data: bytes) -> Iterator[Scan]:
    """Yield the one scan of an image file.

    Args:
        task: the scan.
        data: the file's bytes.

    Raises:
        ScanRefusedError: not one of the formats, corrupt, too large, several frames, colour, or samples
            that Pillow would narrow.
    """
    # Its debug log quotes the values of tags, such as an image's description.
    logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)
    luma = task.rule.read_with(ImageOptions).colour == "grey"
    picture = (_whole_jpeg if data[:2] == _JPEG else _decoded)(data, luma=luma)
    yield Scan(
        pixels=picture.pixels,
        value_range=picture.value_range,
        sha256=hashlib.sha256(data).hexdigest(),
        source_format=picture.kind,
        pixel_aspect=1 / task.pixel_aspect if picture.on_its_side else task.pixel_aspect,
        attributes=task.attributes,
    )


class _Picture(NamedTuple):
    """A decoded image file.

    Attributes:
        pixels: (H, W), upright.
        value_range: values of black and white, None where they are not fixed by the format.
        kind: short name of the format.
        on_its_side: whether rows of the file are columns of the picture.
    """

    pixels: npt.NDArray[np.generic]
    value_range: tuple[float, float] | None
    kind: str
    on_its_side: bool


def _whole_jpeg(data: bytes, *, luma: bool) -> _Picture:
    """Decode a JPEG file, unless a part of its scans is missing, which the decoder would make up."""
    scans = scans_of(data)
    scans.check()
    if scans.is_plain:
        return _decoded(without_end(data, scans), luma=luma)
    picture = _decoded(data, luma=luma)
    if not np.array_equal(picture.pixels, _decoded(with_foreign_bytes(data, scans), luma=luma).pixels):
        raise ScanRefusedError("truncated image")
    return picture


def _decoded(data: bytes, *, luma: bool) -> _Picture:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and odd tags; our own bound decides, and warnings may quote tags.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                check_size(image.height, image.width)
                # Counting the frames would follow a chain of directories to its end: quadratic time.
                if getattr(image, "is_animated", False):
                    raise ScanRefusedError("several frames")
                wide = image.mode in {"I", "F"} or "progressive" in image.info
                if wide and image.height * image.width > MAX_WIDE_PIXELS:
                    raise ScanRefusedError("image too large")
                check_samples(image)
                if image.format == "PNG":
                    check_png(data)
                elif image.format == "TIFF":
                    check_tiff(data, image)
                orientation = orientation_of(image)
                pixels, value_range = _grey(image, luma=luma)
                if image.format != "TIFF":
                    pixels = upright(pixels, orientation)
                return _Picture(pixels, value_range, (image.format or "image").lower(), orientation >= 5)
    except UnidentifiedImageError as error:
        raise ScanRefusedError("not a PNG, JPEG or TIFF image") from error
    except Image.DecompressionBombError as error:
        raise ScanRefusedError("image too large") from error
    except ScanRefusedError:
        raise
    # Pillow raises many kinds on broken files (OSError, SyntaxError, ValueError, struct.error, ...).
    except Exception as error:
        raise ScanRefusedError("truncated image" if "truncated" in str(error) else "corrupt image") from error


def _grey(image: Any, *, luma: bool) -> tuple[npt.NDArray[np.generic], tuple[float, float] | None]:
    """Return grey pixels and the values of black and white, None where they are not fixed by the format."""
    mode: str = image.mode
    check_opaque(image)
    if mode == "L":
        return np.asarray(image), (0.0, 255.0)
    if mode in {"I;16", "I;16B", "I;16L", "I", "F"}:
        pixels = np.asarray(image)
        if not np.isfinite(pixels).all():
            raise ScanRefusedError("pixel values are not finite")
        check_whole_numbers(image, pixels)
        whole = pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2
        pixels = pixels.astype(np.uint16 if whole else np.float32)
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            pixels = np.iinfo(np.uint16).max - pixels if whole else -pixels
        return pixels, None
    if mode in {"1", "LA"}:
        return np.asarray(image.convert("L")), (0.0, 255.0)
    if mode in {"P", "PA"}:
        return _grey(image.convert("RGB"), luma=luma)
    if mode in {"RGB", "RGBA"}:
        if not luma and _spread(image) > COLOUR_TOLERANCE:
            raise ScanRefusedError("colour image")
        # ITU-R BT.601 luma, as Pillow computes it, in whole numbers.
        return np.asarray(image.convert("L")), (0.0, 255.0)
    raise ScanRefusedError("unsupported pixel format")


def _spread(image: Any) -> float:
    """Return the mean difference between the channels of a colour image, over a grid of its pixels.

    Row by row, because an array of all its pixels would need two more copies of them.
    """
    step = max(1, image.height // 128)
    total = count = 0
    for row in range(0, image.height, step):
        line = np.asarray(image.crop((0, row, image.width, row + 1)))[0, ::step, :3].astype(np.int16)
        total += int(np.abs(line - line[:, 1:2]).sum())
        count += line.size
    return total / count * 1.5
