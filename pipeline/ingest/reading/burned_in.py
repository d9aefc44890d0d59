"""Detects burned-in text near the border of a scan as rows of small strokes with high contrast."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Bools
from pipeline.ingest.reading.text_boxes import Pixels, TextBox, merged_boxes

Grey = npt.NDArray[np.uint8]

BORDER_SHARE = 0.2
"""Depth of the searched border, as a share of each side."""

MIN_SIDE = 96
"""Shortest side in pixels of a scan that is searched; smaller scans hold no legible text."""

SHARP = 0.15
"""Smallest step between neighbouring pixels that counts as sharp, as a share of the range black to white."""

CONTRAST = 44
"""Contrast above which a structure counts as a stroke, of 255."""

WHITE, BLACK = 110, 31
"""A stroke is brighter than the first value, or darker than the second, of 255."""

MIN_CHARACTERS = 4
"""Smallest number of aligned characters in a text; markers (R, L, A-P) have fewer."""

MIN_RUNS = 3.8
"""Smallest mean number of strokes per pixel row of a text whose letters have merged."""

HEIGHTS = (5, 40)
"""Smallest and largest height of a character in pixels, at the scale of the search."""

_STEPS = 5
_ROWS = 2
_REACH = 64
_STROKE_WIDTH = 9
_MAX_PARTS = 2000
_MAX_REGIONS = 64


def find_text(pixels: Pixels, black_white: tuple[float, float]) -> list[TextBox]:
    """Return the text lines near the border of a scan.

    A quick search of some rows finds regions with many sharp steps close together. Only there are strokes
    segmented and grouped into characters, and characters into lines. Vertical text and text less than five
    pixels high are not found.

    Args:
        pixels: (H, W), bright = dense, any real dtype.
        black_white: pixel values of black and white.
    """
    height, width = pixels.shape
    low, high = black_white
    if min(height, width) < MIN_SIDE or not high > low:
        return []
    found = [box for region in _regions(pixels, high - low) for box in _lines(pixels, region, black_white)]
    if found:
        # A scan with one text often has others that are too small or faint for the quick search.
        found += [box for strip in _strips(height, width) for box in _lines(pixels, strip, black_white)]
    return merged_boxes(found)


def _regions(pixels: Pixels, span: float) -> list[TextBox]:
    """Return the parts of the border where at least two rows have several sharp steps close together."""
    height, width = pixels.shape
    row_step = 3 + height // 512
    rows = pixels[1::row_step]
    if rows.dtype.kind == "f":
        sharp = np.abs(rows[:, 1:] - rows[:, :-1]) > span * SHARP
    else:
        # The larger minus the smaller cannot overflow an unsigned type; a wider type is four times slower.
        steps = np.maximum(rows[:, 1:], rows[:, :-1]) - np.minimum(rows[:, 1:], rows[:, :-1])
        sharp = steps > rows.dtype.type(min(max(span * SHARP, 1), np.iinfo(rows.dtype).max))
    at = np.flatnonzero(sharp)
    # Adjacent steps belong to one thin stroke or to one edge of a thick one.
    at = at[np.diff(at, prepend=-2) > 1]
    if len(at) < _STEPS * _ROWS:
        return []
    row, column = at // (width - 1) * row_step + 1, at % (width - 1)
    deep, wide = int(height * BORDER_SHARE), int(width * BORDER_SHARE)
    border = (row < deep) | (row >= height - deep) | (column < wide) | (column >= width - wide)
    at, row, column = at[border], row[border], column[border]
    if len(at) < _STEPS * _ROWS:
        return []
    ahead = _STEPS - 1
    first = np.flatnonzero(at[ahead:] - at[:-ahead] <= _REACH + width // 16)
    first = first[row[first] == row[first + ahead]]
    starts = np.stack([row[first], column[first], column[first + ahead]], axis=1)[: 16 * _MAX_REGIONS]
    return _grouped(starts.tolist(), row_step, height, width)


def _grouped(found: list[list[int]], row_step: int, height: int, width: int) -> list[TextBox]:
    """Merge regions of neighbouring rows and add a margin; drop regions of a single row."""
    groups: list[tuple[TextBox, int]] = []
    for row, left, right in found:
        box = TextBox(row, left, row + 1, right + 1)
        reach = TextBox(row - 2 * row_step, left - 8, row + 1, right + 9)
        count = 1
        for other in [group for group in groups if group[0].overlaps(reach)]:
            groups.remove(other)
            box, count = box.joined(other[0]), count + (row > other[0].bottom - 1) + other[1] - 1
        groups.append((box, count))
        if len(groups) > _MAX_REGIONS:
            break
    boxes = [
        TextBox(max(b.top - 40, 0), max(b.left - 80, 0), min(b.bottom + 40, height), min(b.right + 80, width))
        for b, count in groups
        if count >= _ROWS
    ]
    return merged_boxes(boxes)


def _strips(height: int, width: int) -> list[TextBox]:
    deep, wide = int(height * BORDER_SHARE), int(width * BORDER_SHARE)
    return [
        TextBox(0, 0, deep, width),
        TextBox(height - deep, 0, height, width),
        TextBox(0, 0, height, wide),
        TextBox(0, width - wide, height, width),
    ]


def _lines(pixels: Pixels, region: TextBox, black_white: tuple[float, float]) -> list[TextBox]:
    low, high = black_white
    values = pixels[region.top : region.bottom, region.left : region.right].astype(np.float32)
    grey = np.clip((values - np.float32(low)) * np.float32(255 / (high - low)), 0, 255).astype(np.uint8)
    found: list[TextBox] = []
    scale = 1
    while min(grey.shape) > 2 * _STROKE_WIDTH:
        for strokes in _strokes(grey):
            found += [
                TextBox(
                    region.top + box.top * scale,
                    region.left + box.left * scale,
                    region.top + box.bottom * scale,
                    region.left + box.right * scale,
                )
                for box in _rows_of_characters(strokes)
            ]
        if min(pixels.shape) // (2 * scale) < 256:
            break
        # Larger letters are found at half the resolution.
        scale *= 2
        even = grey[: len(grey) // 2 * 2, : grey.shape[1] // 2 * 2].astype(np.uint16)
        sums = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
        grey = (sums // 4).astype(np.uint8)
    return [box for box in found if _near_border(box, pixels.shape)]


def _near_border(box: TextBox, shape: tuple[int, ...]) -> bool:
    row, column = (box.top + box.bottom) / 2 / shape[0], (box.left + box.right) / 2 / shape[1]
    return min(row, 1 - row) < BORDER_SHARE or min(column, 1 - column) < BORDER_SHARE


def _strokes(grey: Grey) -> list[Bools]:
    """Return masks of thin bright and thin dark structures (top-hat and bottom-hat transform)."""
    reach = _STROKE_WIDTH // 2
    wide = np.pad(grey, 2 * reach, mode="edge")
    opened = _window(_window(wide, np.minimum), np.maximum)
    closed = _window(_window(wide, np.maximum), np.minimum)
    bright = (grey - np.minimum(opened, grey) > CONTRAST) & (grey > WHITE)
    dark = (np.maximum(closed, grey) - grey > CONTRAST) & (grey < BLACK)
    return [mask for mask in (bright, dark) if np.count_nonzero(mask) > 4 * MIN_CHARACTERS]


def _window(grey: Grey, choose: np.ufunc) -> Grey:
    """Return the minimum or maximum over each 9 by 9 window; the width grows in steps (2, 4, 8, 9)."""
    for _ in range(2):
        two = choose(grey[:-1], grey[1:])
        four = choose(two[:-2], two[2:])
        eight = choose(four[:-4], four[4:])
        grey = choose(eight[:-1], grey[8:]).T
    return grey


def _rows_of_characters(strokes: Bools) -> list[TextBox]:
    from scipy.ndimage import find_objects, label

    labelled, count = label(strokes, structure=np.ones((3, 3), dtype=bool))
    if count > _MAX_PARTS:
        return []
    parts = []
    for rows, columns in find_objects(labelled):
        part = TextBox(rows.start, columns.start, rows.stop, columns.stop)
        if HEIGHTS[0] <= part.height <= HEIGHTS[1] and part.width <= 12 * part.height:
            parts.append(part)
    lines = []
    for line in _chains(sorted(parts, key=lambda part: part.left)):
        hull = line[0]
        for part in line[1:]:
            hull = hull.joined(part)
        if _is_text(strokes, hull, line):
            lines.append(hull)
    return lines


def _is_text(strokes: Bools, hull: TextBox, characters: list[TextBox]) -> bool:
    """Return whether a line holds enough characters, or enough strokes if its characters have merged."""
    inside = strokes[hull.top : hull.bottom, hull.left : hull.right]
    if hull.width < 1.8 * hull.height:
        return False
    # Noise and bone continue above and below the line; text does not.
    above = strokes[max(hull.top - 2, 0) : hull.top, hull.left : hull.right]
    below = strokes[hull.bottom : hull.bottom + 2, hull.left : hull.right]
    around = np.count_nonzero(above) + np.count_nonzero(below)
    filled = np.count_nonzero(inside) / inside.size
    if around > 0.35 * filled * max(above.size + below.size, 1):
        return False
    runs = (np.count_nonzero(inside[:, 1:] & ~inside[:, :-1]) + np.count_nonzero(inside[:, 0])) / hull.height
    letters = sum(part.width <= 2 * part.height for part in characters)
    return bool(runs >= MIN_RUNS) or (letters >= MIN_CHARACTERS and bool(runs >= 0.6 * MIN_CHARACTERS))


def _chains(parts: list[TextBox]) -> list[list[TextBox]]:
    """Chain characters from left to right that are close together, on one line and of similar height."""
    lines: list[list[TextBox]] = []
    for part in parts:
        for line in reversed(lines):
            last = line[-1]
            low, high = sorted((part.height, last.height))
            shared = min(part.bottom, last.bottom) - max(part.top, last.top)
            gap = part.left - last.right
            if shared >= 0.6 * low and high <= 1.8 * low and -0.3 * high <= gap <= 1.2 * high:
                line.append(part)
                break
        else:
            lines.append([part])
    return lines
