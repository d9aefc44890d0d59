"""Bounding boxes of the text lines of a scan: merging them and painting over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class TextBox:
    """Bounding box of a text line: rows `top` to `bottom` and columns `left` to `right`, ends excluded."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.right - self.left

    def joined(self, other: TextBox) -> TextBox:
        """Return the smallest box around both."""
        return TextBox(
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )

    def overlaps(self, other: TextBox) -> bool:
        """Return whether the boxes share a pixel."""
        return (
            self.top < other.bottom
            and other.top < self.bottom
            and self.left < other.right
            and other.left < self.right
        )


def paint_over(pixels: Pixels, boxes: list[TextBox]) -> Pixels:
    """Return a copy in which each box is filled with the lower quartile of the pixels around it.

    Args:
        pixels: (H, W).
        boxes: from `find_text`.
    """
    painted = pixels.copy()
    height, width = pixels.shape
    for box in boxes:
        # Letters at the ends of a line may be too faint or too close together to be detected.
        pad, ends = 2 + box.height // 6, 2 + box.height
        top, left = max(box.top - pad, 0), max(box.left - ends, 0)
        bottom, right = min(box.bottom + pad, height), min(box.right + ends, width)
        ring = [
            pixels[max(top - pad, 0) : top, left:right],
            pixels[bottom : bottom + pad, left:right],
            pixels[top:bottom, max(left - pad, 0) : left],
            pixels[top:bottom, right : right + pad],
        ]
        around = np.concatenate([part.ravel() for part in ring])
        if around.size:
            painted[top:bottom, left:right] = np.partition(around, around.size // 4)[around.size // 4]
    return painted


def merged_boxes(boxes: list[TextBox]) -> list[TextBox]:
    """Merge overlapping boxes and return them sorted from top to bottom."""
    merged: list[TextBox] = []
    for box in sorted(boxes, key=lambda b: (b.top, b.left, b.bottom, b.right)):
        current = box
        while (other := next((m for m in merged if m.overlaps(current)), None)) is not None:
            merged.remove(other)
            current = current.joined(other)
        merged.append(current)
    return sorted(merged, key=lambda b: (b.top, b.left))
