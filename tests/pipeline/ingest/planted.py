"""Drawn radiographs that differ like those of different patients, and what tests plant in them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter


def radiographs(count: int, side: int = 128, seed: int = 0) -> np.ndarray:
    """Return (count, side, side) uint8: one common body, with own outlines and fine detail each."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    images = []
    for _ in range(count):
        dx, dy, wide = rng.uniform(-0.06, 0.06, 3)
        lungs = sum(
            np.exp(-(((x - c - dx) / (0.28 + wide)) ** 2) - ((y - dy) / 0.6) ** 2) for c in (-0.4, 0.4)
        )
        body = np.exp(-((np.abs(x - dx) / 0.9) ** 6))
        coarse = gaussian_filter(rng.normal(size=(side, side)), side / 16)
        fine = gaussian_filter(rng.normal(size=(side, side)), side / 50)
        image = body * (0.75 - 0.5 * lungs + 0.09 * coarse / coarse.std() + 0.06 * fine / fine.std())
        images.append(np.clip(255 * image, 0, 255).astype(np.uint8))
    return np.stack(images)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Return an image after compression."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def copies(image: np.ndarray) -> dict[str, np.ndarray]:
    """Return near-duplicates of a (H, W) uint8 image by what was done to them."""
    height, width = image.shape
    cut = round(0.015 * height)
    smaller = Image.fromarray(image).resize(
        (round(width * 0.9), round(height * 0.9)), Image.Resampling.BICUBIC
    )
    floating = image.astype(np.float64)
    return {
        "jpeg": jpeg(image, 60),
        "resized": np.asarray(smaller),
        "brighter": np.clip(floating * 1.1, 0, 255).astype(np.uint8),
        "darker": np.clip(floating * 0.9, 0, 255).astype(np.uint8),
        "cropped": np.ascontiguousarray(image[cut:-cut, cut:-cut]),
        "shifted": np.pad(image, ((1, 0), (0, 1)), mode="edge")[:-1, 1:],
    }


def with_text(
    image: np.ndarray, text: str, place: tuple[int, int], *, size: int = 14, value: int = 255
) -> np.ndarray:
    """Return a copy of a (H, W) uint8 image with text at (row, column), negative ones from the far end."""
    picture = Image.fromarray(image)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    row, column = place
    row = row if row >= 0 else image.shape[0] + row - (bottom - top)
    column = column if column >= 0 else image.shape[1] + column - (right - left)
    pen.text((column - left, row - top), text, fill=value, font=font)
    return np.asarray(picture)
