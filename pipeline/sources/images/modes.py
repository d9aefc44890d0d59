"""What Pillow leaves out of a picture without a word: bits of a sample, transparency, which way is up."""

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
    """Refuse an opened picture whose samples have more bits, or another sign, than Pillow makes of them.

    Colours of 16 bits become colours of 8, so that 12-bit values in them would be 16 levels of grey; and so
    do the 16-bit entries of a TIFF palette.

    Args:
        image: an image that Pillow has opened and not loaded.

    Raises:
        ScanRefusedError: the pixels would be other than those of the file.
    """
    tags = getattr(image, "tag_v2", {})
    bits = max(tags.get(_BITS, (1,)), default=1)
    narrowed = bits > 8 or any(";16" in str(tile.args) for tile in image.tile)
    if narrowed and image.mode not in _WIDE_MODES:
        raise ScanRefusedError("colour or transparency of 16 bits a sample")
    if image.mode in {"P", "PA"} and not _fits_a_byte(np.asarray(tags.get(_COLOUR_MAP, (0,)))):
        raise ScanRefusedError("palette of 16 bits a sample")
    if image.mode == "L" and _SIGNED in tags.get(_SAMPLE_FORMAT, (1,)):
        raise ScanRefusedError("signed samples of 8 bits")


def check_whole_numbers(image: Any, pixels: npt.NDArray[np.generic]) -> None:
    """Refuse unsigned samples of 32 bits that Pillow's signed ones have no room for.

    Raises:
        ScanRefusedError: values above 2**31 - 1 have become negative.
    """
    tags = getattr(image, "tag_v2", {})
    unsigned = image.mode == "I" and _SIGNED not in tags.get(_SAMPLE_FORMAT, (1,))
    if unsigned and pixels.dtype.kind == "i" and int(pixels.min()) < 0:
        raise ScanRefusedError("values above 2**31 - 1")


def check_opaque(image: Any) -> None:
    """Refuse a picture with see-through pixels: what stands under them is not what is shown.

    A single grey or colour that is marked as transparent hides nothing: its pixels have that value.

    Raises:
        ScanRefusedError: a pixel is not opaque.
    """
    alpha = image.info.get("transparency")
    if image.mode in {"RGBA", "LA", "PA"}:
        least = int(image.getchannel("A").getextrema()[0])
    elif image.mode == "P" and isinstance(alpha, bytes):
        used = np.bincount(np.asarray(image).ravel(), minlength=len(alpha))[: len(alpha)] > 0
        least = int(np.frombuffer(alpha, np.uint8)[used].min(initial=255))
    elif image.mode == "P" and isinstance(alpha, int):
        least = 0 if (np.asarray(image) == alpha).any() else 255
    else:
        return
    if least < 255:
        raise ScanRefusedError("transparent pixels")


def orientation_of(image: Any) -> int:
    """Return how the stored pixels have to be turned (Exif 2.32, 4.6.4: Orientation), 1 for not at all.

    Exif data that cannot be read say nothing.
    """
    try:
        found = int(image.getexif().get(_ORIENTATION, 1))
    # Exif is a TIFF file of its own, and Pillow raises as many kinds on a broken one.
    except Exception:
        return 1
    return found if 1 <= found <= 8 else 1


def upright(pixels: npt.NDArray[np.generic], orientation: int) -> npt.NDArray[np.generic]:
    """Return (H, W) pixels as they are meant to be seen; (W, H) for orientations of 5 and above.

    Not for TIFF files, which Pillow turns by itself, and no others.
    """
    # The first stored row is the top (1, 2), bottom (3, 4), left (5, 8) or right side (6, 7) of the picture.
    if orientation >= 5:
        pixels = pixels.T
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _fits_a_byte(entries: npt.NDArray[Any]) -> bool:
    """Whether 16-bit entries are bytes, brought to 16 bits in one of the usual ways."""
    high, low = entries >> 8, entries & 0xFF
    return bool(((low == 0) | (low == high) | (low == 0xFF)).all())
