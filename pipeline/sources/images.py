"""Image files: PNG, JPEG and TIFF, grey, 8 or 16 bit, decoded with Pillow inside fixed bounds."""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanRefusedError
from pipeline.sources.base import Scan, ScanTask, check_size

FORMATS = ("PNG", "JPEG", "TIFF")
MAX_SCANS = 100
"""Most scans of a JPEG image; progressive ones have about ten."""
MAX_WIDE_PIXELS = 60_000_000
"""Largest image that takes over six bytes a pixel to decode: of 32 bits, or a progressive JPEG."""

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
        ScanRefusedError: not one of the formats, corrupt, too large, several frames, or colour.
    """
    from PIL import Image, UnidentifiedImageError

    # Its debug log quotes the values of tags, such as an image's description.
    logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)
    digest = hashlib.sha256(data).hexdigest()
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and odd tags; our own bound decides, and warnings may quote tags.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                check_size(image.height, image.width)
                # Counting the frames would follow a chain of directories to its end: quadratic time.
                if getattr(image, "is_animated", False):
                    raise ScanRefusedError("several frames")
                # Each scan of a progressive JPEG goes over the whole image again, however short it is.
                if image.format in {"JPEG", "MPO"} and data.count(b"\xff\xda") > MAX_SCANS:
                    raise ScanRefusedError("too many scans")
                wide = image.mode in {"I", "F"} or "progressive" in image.info
                if wide and image.height * image.width > MAX_WIDE_PIXELS:
                    raise ScanRefusedError("image too large")
                pixels, value_range = _grey(image, luma=task.rule.colour == "grey")
                kind = (image.format or "image").lower()
    except UnidentifiedImageError as error:
        raise ScanRefusedError("not a PNG, JPEG or TIFF image") from error
    except Image.DecompressionBombError as error:
        raise ScanRefusedError("image too large") from error
    except ScanRefusedError:
        raise
    # Pillow raises many kinds on broken files (OSError, SyntaxError, ValueError, struct.error, ...).
    except Exception as error:
        raise ScanRefusedError("corrupt image") from error
    yield Scan(
        pixels=pixels,
        value_range=value_range,
        sha256=digest,
        source_format=kind,
        pixel_aspect=task.pixel_aspect,
        sex=task.sex,
        age_years=task.age_years,
        view=task.view,
    )


def _grey(image: Any, *, luma: bool) -> tuple[npt.NDArray[np.generic], tuple[float, float] | None]:
    """Return grey pixels and the values of black and white, None where they are not fixed by the format."""
    mode: str = image.mode
    if mode == "L":
        return np.asarray(image), (0.0, 255.0)
    if mode in {"I;16", "I;16B", "I;16L", "I", "F"}:
        pixels = np.asarray(image)
        if not np.isfinite(pixels).all():
            raise ScanRefusedError("pixel values are not finite")
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
