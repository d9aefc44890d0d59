"""Reads PNG, JPEG and TIFF files as grey images with Pillow, within fixed size limits."""

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
"""Largest number of pixels of a 32-bit image or progressive JPEG; decoding takes over six bytes per pixel."""

_JPEG = b"\xff\xd8"
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
"""Tag PhotometricInterpretation of TIFF 6.0; Pillow inverts WhiteIsZero images of 8 bits only."""

COLOUR_TOLERANCE = 8.0
"""Largest mean difference between the colour channels, in levels of 255, of an image that counts as grey."""


def read(task: ScanTask, data: bytes) -> Iterator[Scan]:
    """Yield the one scan of an image file.

    Args:
        task: the scan and how to read it.
        data: the file's bytes.

    Raises:
        ScanRefusedError: the file has another format, several frames, colours that the manifest does not
            accept, or samples that Pillow would change; or it is corrupt or too large.
    """
    # Pillow's debug log quotes the values of tags, such as the image description.
    logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)
    luma = task.rule.read_with(ImageOptions).colour == "grey"
    image = (_decoded_jpeg if data[:2] == _JPEG else _decoded)(data, luma=luma)
    yield Scan(
        pixels=image.pixels,
        value_range=image.value_range,
        sha256=hashlib.sha256(data).hexdigest(),
        source_format=image.format,
        pixel_aspect=1 / task.pixel_aspect if image.is_transposed else task.pixel_aspect,
        attributes=task.attributes,
    )


class _DecodedImage(NamedTuple):
    """A decoded image file.

    Attributes:
        pixels: (H, W) upright pixels.
        value_range: values of black and white, or None if the format does not fix them.
        format: lower-case name of the format.
        is_transposed: whether rows of the file are columns of the upright image.
    """

    pixels: npt.NDArray[np.generic]
    value_range: tuple[float, float] | None
    format: str
    is_transposed: bool


def _decoded_jpeg(data: bytes, *, luma: bool) -> _DecodedImage:
    """Decode a JPEG file; refuse missing scan data, which the decoder would silently fill in."""
    scans = scans_of(data)
    scans.check()
    if scans.is_plain:
        return _decoded(without_end(data, scans), luma=luma)
    image = _decoded(data, luma=luma)
    if not np.array_equal(image.pixels, _decoded(with_foreign_bytes(data, scans), luma=luma).pixels):
        raise ScanRefusedError("truncated image")
    return image


def _decoded(data: bytes, *, luma: bool) -> _DecodedImage:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Warnings of large images duplicate `check_size`, and warnings of unusual tags may quote them.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                check_size(image.height, image.width)
                # `n_frames` would follow the whole chain of directories in quadratic time.
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
                return _DecodedImage(pixels, value_range, (image.format or "image").lower(), orientation >= 5)
    except UnidentifiedImageError as error:
        raise ScanRefusedError("not a PNG, JPEG or TIFF image") from error
    except Image.DecompressionBombError as error:
        raise ScanRefusedError("image too large") from error
    except ScanRefusedError:
        raise
    # Pillow raises many exception types for corrupt files (OSError, SyntaxError, ValueError, ...).
    except Exception as error:
        raise ScanRefusedError("truncated image" if "truncated" in str(error) else "corrupt image") from error


def _grey(image: Any, *, luma: bool) -> tuple[npt.NDArray[np.generic], tuple[float, float] | None]:
    """Return grey pixels and the values of black and white, or None if the format does not fix them."""
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
        if not luma and _channel_difference(image) > COLOUR_TOLERANCE:
            raise ScanRefusedError("colour image")
        # Pillow computes the luma of ITU-R BT.601 in integers.
        return np.asarray(image.convert("L")), (0.0, 255.0)
    raise ScanRefusedError("unsupported pixel format")


def _channel_difference(image: Any) -> float:
    """Return the mean difference between the channels of a colour image, over a grid of its pixels.

    The image is converted row by row, because an array of the whole image would need two more copies.
    """
    step = max(1, image.height // 128)
    total = count = 0
    for row in range(0, image.height, step):
        line = np.asarray(image.crop((0, row, image.width, row + 1)))[0, ::step, :3].astype(np.int16)
        total += int(np.abs(line - line[:, 1:2]).sum())
        count += line.size
    return total / count * 1.5
