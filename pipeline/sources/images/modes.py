"""Handles what Pillow silently discards: sample bits, transparency and orientation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanRefusedError

_WIDE_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
_BITS, _COLOUR_MAP, _ORIENTATION, _SAMPLE_FORMAT = 258, 320, 274, 339
"""Tags of TIFF 6.0; the orientation is also one of Exif's."""
_SIGNED = 2


def check_samples(image: Any) -> None:
    """Refuse an opened image whose samples Pillow would decode with fewer bits or another sign.

    Pillow reduces 16-bit colour samples and the 16-bit entries of TIFF palettes to 8 bits. Only 16 grey
    levels would remain of 12-bit values in them.

    Args:
        image: an image that Pillow has opened but not loaded.

    Raises:
        ScanRefusedError: the decoded pixels would differ from those in the file.
    """
    tags = getattr(image, "tag_v2", {})
    bits = max(tags.get(_BITS, (1,)), default=1)
    narrowed = bits > 8 or any(";16" in str(tile.args) for tile in image.tile)
    if narrowed and image.mode not in _WIDE_MODES:
        raise ScanRefusedError("16-bit colour or transparency")
    if image.mode in {"P", "PA"} and not _are_scaled_bytes(np.asarray(tags.get(_COLOUR_MAP, (0,)))):
        raise ScanRefusedError("16-bit palette")
    if image.mode == "L" and _SIGNED in tags.get(_SAMPLE_FORMAT, (1,)):
        raise ScanRefusedError("signed 8-bit samples")


def check_whole_numbers(image: Any, pixels: npt.NDArray[np.generic]) -> None:
    """Refuse unsigned 32-bit samples that overflow Pillow's signed ones.

    Raises:
        ScanRefusedError: values above 2**31 - 1 became negative.
    """
    tags = getattr(image, "tag_v2", {})
    unsigned = image.mode == "I" and _SIGNED not in tags.get(_SAMPLE_FORMAT, (1,))
    if unsigned and pixels.dtype.kind == "i" and int(pixels.min()) < 0:
        raise ScanRefusedError("values above 2**31 - 1")


def check_opaque(image: Any) -> None:
    """Refuse an image with transparent pixels, whose stored values are not the displayed ones.

    One transparent value of a grey or RGB image is accepted, because its pixels have exactly this value.

    Raises:
        ScanRefusedError: a pixel is not opaque.
    """
    alpha = image.info.get("transparency")
    if image.mode in {"RGBA", "LA", "PA"}:
        lowest = int(image.getchannel("A").getextrema()[0])
    elif image.mode == "P" and isinstance(alpha, bytes):
        used = np.bincount(np.asarray(image).ravel(), minlength=len(alpha))[: len(alpha)] > 0
        lowest = int(np.frombuffer(alpha, np.uint8)[used].min(initial=255))
    elif image.mode == "P" and isinstance(alpha, int):
        lowest = 0 if (np.asarray(image) == alpha).any() else 255
    else:
        return
    if lowest < 255:
        raise ScanRefusedError("transparent pixels")


def orientation_of(image: Any) -> int:
    """Return the Exif orientation, from 1 to 8 (Exif 2.32, 4.6.4); 1 (upright) if absent or unreadable."""
    try:
        found = int(image.getexif().get(_ORIENTATION, 1))
    # Exif data are a TIFF file, for which Pillow raises many exception types if it is corrupt.
    except Exception:
        return 1
    return found if 1 <= found <= 8 else 1


def upright(pixels: npt.NDArray[np.generic], orientation: int) -> npt.NDArray[np.generic]:
    """Return (H, W) pixels in upright orientation; the result is (W, H) for orientations from 5 to 8.

    Pillow itself turns TIFF files, and no other format.
    """
    # The first stored row is the top (1, 2), bottom (3, 4), left (5, 8) or right side (6, 7) of the image.
    if orientation >= 5:
        pixels = pixels.T
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _are_scaled_bytes(entries: npt.NDArray[Any]) -> bool:
    """Return whether 16-bit entries are bytes that were scaled to 16 bits in one of the usual ways."""
    high, low = entries >> 8, entries & 0xFF
    return bool(((low == 0) | (low == high) | (low == 0xFF)).all())
