"""From path lengths to pixels: Beer-Lambert transmission, scatter, quantum noise, detector and display.

Attenuation coefficients are linear, in 1/mm, at an effective energy of 60 keV (a 120 kVp chest beam):
mass attenuation coefficient times density, both from NIST Standard Reference Database 126 (Hubbell and
Seltzer) for the ICRU-44 materials.
"""

from __future__ import annotations

import numpy as np

from pipeline.phantom.solids import Array

MU_SOFT = 0.02048 * 1.06  # soft tissue, 0.2048 cm2/g, 1.06 g/cm3
MU_FAT = 0.01974 * 0.95  # adipose tissue, 0.1974 cm2/g, 0.95 g/cm3
MU_LUNG = 0.02053 * 0.26  # inflated lung, 0.2053 cm2/g, 0.26 g/cm3
MU_CORTICAL = 0.03148 * 1.92  # cortical bone, 0.3148 cm2/g, 1.92 g/cm3
MU_SPONGY = 0.0245 * 1.18  # spongy bone (ICRU-46), mixture of cortical bone and marrow
MU_AIR = 0.0

# Photons per mm2 that reach and are absorbed by the detector without a patient, at exposure 1.
OPEN_FLUENCE = 2.5e5
# Largest signal of the detector, in units of -ln(transmission); thicker paths are all equally white.
STORED_MAX = 4095
_COARSE = 32


def transmit(path: Array) -> Array:
    """Beer-Lambert law: share of the photons that cross without interaction.

    Args:
        path: line integral of the attenuation coefficient, dimensionless, (H, W), >= 0.

    Returns:
        exp(-path), (H, W), in (0, 1].
    """
    return np.asarray(np.exp(-path), dtype=np.float32)


def smooth(image: Array, sigma: float) -> Array:
    """Gaussian blur of wide sigma, on a coarse grid, with reflection at the border.

    Made of element-wise sums alone (no matrix library), so that the result does not depend on threads.

    Args:
        image: (H, W) float32.
        sigma: standard deviation in pixels of the image, at least about H / 32.

    Returns:
        (H, W) float32.
    """
    height, width = image.shape
    rows, cols = min(_COARSE, height), min(_COARSE, width)
    row_edges = np.arange(rows) * height // rows
    col_edges = np.arange(cols) * width // cols
    coarse = np.add.reduceat(np.add.reduceat(image, row_edges, axis=0), col_edges, axis=1)
    area = np.diff(np.append(row_edges, height))[:, None] * np.diff(np.append(col_edges, width))[None, :]
    coarse = _blur_axis(coarse / area.astype(np.float32), sigma * rows / height)
    coarse = _blur_axis(coarse.T, sigma * cols / width).T
    return _stretch(_stretch(coarse, height).T, width).T


def _blur_axis(image: Array, sigma: float) -> Array:
    count = len(image)
    reach = max(1, min(count - 1, int(np.ceil(3 * sigma))))
    taps = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / max(sigma, 0.3)))
    padded = np.pad(image, ((reach, reach), (0, 0)), mode="symmetric")
    out = np.zeros_like(image)
    for i, tap in enumerate(taps / taps.sum()):
        out += np.float32(tap) * padded[i : i + count]
    return out


def _stretch(image: Array, size: int) -> Array:
    """Linear interpolation of axis 0 to `size` rows."""
    count = len(image)
    at = np.clip((np.arange(size) + 0.5) * count / size - 0.5, 0, count - 1)
    low = np.minimum(at.astype(np.int64), count - 2)
    part = (at - low).astype(np.float32)[:, None]
    return image[low] * (1 - part) + image[low + 1] * part


def add_scatter(primary: Array, path: Array, spacing: float, ratio: float) -> Array:
    """Add scattered photons: a smooth field that is a fraction of the primary around each pixel.

    The fraction grows with thickness (more scatter under the mediastinum than under lung), and the field
    has no detail finer than the spread of scatter in a chest (about 25 mm after the grid).

    Args:
        primary: transmission, (H, W).
        path: line integral, (H, W); sets where scatter is made.
        spacing: pixel pitch in mm.
        ratio: scatter-to-primary ratio at a path of 3.

    Returns:
        Primary plus scatter, (H, W).
    """
    source = primary * np.float32(ratio / 3) * path
    return primary + smooth(source, 25.0 / spacing)


def detector_blur(image: Array, sigma: float) -> Array:
    """Blur of the detector (Gaussian MTF), as a five-tap kernel with replicated border.

    Args:
        image: (H, W).
        sigma: standard deviation in pixels, 0 to 1.2.

    Returns:
        (H, W).
    """
    if sigma < 0.15:
        return image
    taps = np.exp(-0.5 * np.square(np.arange(3) / sigma))
    taps = (taps / (taps[0] + 2 * taps[1] + 2 * taps[2])).astype(np.float32)
    for _ in range(2):
        padded = np.pad(image, ((2, 2), (0, 0)), mode="edge")
        count = len(image)
        mixed = taps[0] * padded[2 : count + 2]
        mixed += taps[1] * (padded[1 : count + 1] + padded[3 : count + 3])
        mixed += taps[2] * (padded[:count] + padded[4 : count + 4])
        image = mixed.T
    return image


def count_photons(mean: Array, rng: np.random.Generator) -> Array:
    """Poisson counts with the given means.

    Means over 200 use the Gaussian limit of the Poisson law (relative error of the tails under 1 %), which
    is ten times as fast and takes one draw a pixel, so that rounding in one pixel cannot shift the others.

    Args:
        mean: expected photons, (H, W), >= 0.
        rng: source of chance.

    Returns:
        Counts, (H, W) float32, >= 0.
    """
    normal = rng.standard_normal(mean.shape, dtype=np.float32)
    counts = mean + np.sqrt(mean) * normal
    few = mean < 200
    if few.any():
        counts[few] = rng.poisson(mean[few])
    return np.asarray(np.maximum(np.rint(counts), 0), dtype=np.float32)


def detect(fluence: Array, spacing: float, exposure: float, rng: np.random.Generator) -> Array:
    """Noisy relative signal of the detector.

    Args:
        fluence: relative fluence (1 without a patient), (H, W).
        spacing: pixel pitch in mm; a larger pixel gathers more photons.
        exposure: factor on the tube current-time product; the noise falls with its square root.
        rng: source of chance.

    Returns:
        Counts over open-field counts, (H, W), > 0.
    """
    open_field = np.float32(OPEN_FLUENCE * exposure * spacing**2)
    counts = count_photons(fluence * open_field, rng)
    return np.maximum(counts, np.float32(0.5)) / open_field


def present(signal: Array, spacing: float, contrast: float, brightness: float) -> np.ndarray:
    """For-presentation values: logarithm, compression of slow variation, sigmoid display curve, 12 bits.

    Args:
        signal: relative detector signal, (H, W), > 0.
        spacing: pixel pitch in mm.
        contrast: factor on the slope of the curve, about 1.
        brightness: shift of the middle of the curve, about 0, in units of its width.

    Returns:
        (H, W) uint16 in [0, 4095]; dense is bright (the sense of MONOCHROME2).
    """
    density = -np.log(signal)
    slow = smooth(density, 45.0 / spacing)
    density = density + np.float32(0.55) * (density - slow)
    # The curve is set on what lies behind the patient, as the automatic ranging of a detector does.
    low, high = _quantiles(density[density > 1.0], (0.10, 0.90)) if (density > 1.0).any() else (0.0, 1.0)
    middle, width = 0.5 * (low + high), max(high - low, 0.5)
    scaled = (density - np.float32(middle)) * np.float32(2.6 * contrast / width) + np.float32(brightness)
    shown = np.float32(STORED_MAX) / (1 + np.exp(-scaled))
    return np.rint(shown).astype(np.uint16)


def _quantiles(values: Array, points: tuple[float, float]) -> tuple[float, float]:
    # Every fourth value is enough for a display curve, and partition is faster than a sort.
    some = values[:: max(1, len(values) // 4096)]
    ranks = [int(p * (len(some) - 1)) for p in points]
    placed = np.partition(some, ranks)
    return float(placed[ranks[0]]), float(placed[ranks[1]])
