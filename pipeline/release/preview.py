"""A picture of some released images by class, labelled as synthetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.release.admission import Admission
from pipeline.release.layout import NOT_CLINICAL, PREVIEW_NAME
from pipeline.rendering.pictures import display_pixels
from pipeline.storage import atomic_path

_GAP = 4
_LINE = 16
_TILE = 96
_FONT = 12  # pixels; in the default of 10 the spaces between some words vanish
_INK, _PAPER = 0, 255


def write_preview(folder: Path, admission: Admission, *, per_class: int, seed: int) -> None:
    """Write `preview.png`: `per_class` images of each class, drawn at random by the run seed."""
    from PIL import Image, ImageDraw

    rng = np.random.default_rng([seed, 0x50])
    strips = []
    for name in admission.classes:
        rows = admission.table.loc[admission.table["class"] == name, "row"].to_numpy()
        chosen = np.sort(rng.choice(rows, size=min(per_class, len(rows)), replace=False))
        strips.append((name, display_pixels(admission.pixels(chosen)[:, 0])))
    height, width = admission.image_size
    scale = max(1, _TILE // max(height, width))
    tile_height, tile_width = height * scale, width * scale
    across = max(max(len(images) for _, images in strips) * (tile_width + _GAP) + _GAP, 240)
    down = _LINE + len(strips) * (_LINE + tile_height + _GAP)
    page = Image.new("L", (across, down), _PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((_GAP, 2), NOT_CLINICAL, fill=_INK, font_size=_FONT)
    for index, (name, images) in enumerate(strips):
        top = _LINE + index * (_LINE + tile_height + _GAP)
        pen.text((_GAP, top + 2), name, fill=_INK, font_size=_FONT)
        for column, image in enumerate(images):
            page.paste(
                Image.fromarray(_enlarged(image, scale)), (_GAP + column * (tile_width + _GAP), top + _LINE)
            )
    with atomic_path(folder / PREVIEW_NAME) as temporary:
        page.save(temporary, format="PNG", compress_level=6)


def _enlarged(image: npt.NDArray[np.uint8], scale: int) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(image.repeat(scale, axis=0).repeat(scale, axis=1))
