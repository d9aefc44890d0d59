"""Reads the mask of the edited region: a box in fractions of the image, or a file of the image's size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.edit.settings import Box
from pipeline.errors import DataError, PhosphorError, UsageError

Mask = npt.NDArray[np.float32]
"""(H, W) in [0, 1]: 1 is generated anew, 0 is kept."""

MAX_FILE_BYTES = 2**28
_FIELD = "--mask"


def read_mask(chosen: Box | str | None, image_size: tuple[int, int], *, feather: int) -> Mask:
    """Return the mask of a setting.

    Args:
        chosen: one of: a box (x0, y0, x1, y1) in fractions of the image, x to the right and y down; the name
            of a PNG file (8-bit grey) or npy file (bool, uint8, or floating in [0, 1]), in which 0 is kept
            and the highest grey level is generated anew; None, the whole image.
        image_size: (height, width) in pixels, which a file must have.
        feather: width of the soft inner edge, in pixels.

    Raises:
        UsageError: the file does not exist, or the mask is empty.
        DataError: the file is not a mask of this size.
    """
    import torch

    from models.diffusion.editing import feather as soften

    if chosen is None:
        return np.ones(image_size, dtype=np.float32)
    hard = _of_file(Path(chosen), image_size) if isinstance(chosen, str) else _of_box(chosen, image_size)
    if not hard.any():
        raise UsageError(
            "the mask is empty, so nothing would be edited",
            field=_FIELD,
            remedy="Mask at least one pixel. In a file, 0 is kept and the highest value is edited.",
        )
    soft: Mask = soften(torch.from_numpy(hard), feather).numpy()
    return soft


def _of_box(box: Box, image_size: tuple[int, int]) -> Mask:
    """Return 1 for pixels whose centre is inside the box."""
    height, width = image_size
    x0, y0, x1, y1 = box
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    inside = ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))[None, :]
    return inside.astype(np.float32)


def _of_file(path: Path, image_size: tuple[int, int]) -> Mask:
    # Messages do not contain the name: masks may be named after patients.
    if not path.is_file():
        raise UsageError("no such file", field=_FIELD, remedy="Name a box x0,y0,x1,y1, or a PNG or npy file.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise _refused("the file is larger than 256 MiB")
    readers = {".png": _of_png, ".npy": _of_npy}
    if path.suffix.lower() not in readers:
        raise UsageError("a mask file is a PNG or npy file", field=_FIELD, value=path.suffix)
    try:
        return readers[path.suffix.lower()](path, image_size)
    except PhosphorError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise _refused("the file cannot be read") from error


def _of_png(path: Path, image_size: tuple[int, int]) -> Mask:
    from PIL import Image

    try:
        opened = Image.open(path, formats=("PNG",))
    except Image.DecompressionBombError as error:
        raise _refused("the PNG has far more pixels than an image") from error
    with opened as image:
        # Size and mode are in the header: a decompression bomb is refused before it is decoded.
        _require_size((image.height, image.width), image_size)
        if image.mode not in ("1", "L"):
            raise _refused(f"the PNG has mode {image.mode}, but a mask is 8-bit grey")
        return _of_greys(np.asarray(image.convert("L")))


def _of_npy(path: Path, image_size: tuple[int, int]) -> Mask:
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(values, np.ndarray):
        raise _refused("the file does not hold a single array")
    _require_size(values.shape, image_size)
    if values.dtype == np.uint8:
        return _of_greys(np.asarray(values))
    if values.dtype != np.bool_ and not np.issubdtype(values.dtype, np.floating):
        raise _refused(f"the array is of type {values.dtype}, but a mask is bool, uint8 or floating")
    mask = np.asarray(values, dtype=np.float32)
    if not ((mask >= 0.0) & (mask <= 1.0)).all():
        raise _refused("the array holds values outside 0 to 1")
    return mask


def _of_greys(values: npt.NDArray[np.uint8]) -> Mask:
    """Return grey levels divided by the highest one: labels 0 and 1 work as well as 0 and 255."""
    return values.astype(np.float32) / np.float32(max(1, int(values.max())))


def _require_size(found: tuple[int, ...], image_size: tuple[int, int]) -> None:
    if tuple(found) != tuple(image_size):
        raise DataError(
            f"the mask is of another size than the images ({image_size[0]} x {image_size[1]})",
            field=_FIELD,
            value="x".join(map(str, found)),
            remedy="Use a mask of their height and width.",
        )


def _refused(problem: str) -> DataError:
    return DataError(problem, field=_FIELD, remedy="Name a PNG (grey) or npy file of the image's size.")
