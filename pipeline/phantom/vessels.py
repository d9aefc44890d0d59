"""Pulmonary vessels: two forking trees of short straight tubes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.phantom.solids import Array

_STREAM_VESSELS = 12


@dataclass(frozen=True, slots=True)
class Vessels:
    """Pulmonary vessels as short straight tubes.

    Attributes:
        start: (N, 3) x, y, z in mm.
        end: (N, 3) in mm.
        radius: (N,) in mm.
    """

    start: Array
    end: Array
    radius: Array


def build_vessels(patient_seed: int, half: float, depth: float, apex: float, base: float) -> Vessels:
    """Two trees of pulmonary vessels that fork from the hila towards the edges of the lungs.

    Radii follow Murray's law (cube of the parent equals the sum of the cubes of the daughters).

    Args:
        patient_seed: seed of the patient.
        half: half of the thoracic width in mm.
        depth: half-depth of the lungs in mm.
        apex: top of the lungs in mm.
        base: bottom of the lungs in mm.

    Returns:
        The tubes, generation by generation.
    """
    rng = np.random.default_rng([patient_seed, _STREAM_VESSELS])
    starts, ends, radii = [], [], []
    for side in (-1, 1):
        fan = np.array([1.30, 0.85, 0.40, 0.0, -0.40, -0.75, -1.05, -1.35]) + rng.normal(0, 0.08, 8)
        angle = np.repeat(fan, 2)
        pitch = np.tile([-0.45, 0.45], 8) + rng.normal(0, 0.15, 16)
        root = np.stack([side * np.full(16, 26.0), np.full(16, -4.0), 12 + 10 * np.sin(angle)], axis=1)
        radius = np.full(16, 3.6) * rng.uniform(0.75, 1.15, 16)
        radius = radius * np.where(angle < 0, 1.1, 0.85)
        length = np.full(16, 30.0)
        for _ in range(5):
            heading = np.stack(
                [side * np.cos(angle) * np.cos(pitch), np.sin(pitch), np.sin(angle) * np.cos(pitch)], axis=1
            )
            tip = root + heading * length[:, None]
            starts.append(root)
            ends.append(tip)
            radii.append(radius)
            fork = rng.uniform(0.15, 0.5, len(radius))
            share = rng.uniform(0.3, 0.7, len(radius))
            root = np.concatenate([tip, tip])
            angle = np.concatenate([angle + fork * share, angle - fork * (1 - share)])
            pitch = np.concatenate([pitch, pitch]) + rng.normal(0, 0.25, 2 * len(radius))
            length = np.concatenate([length, length]) * rng.uniform(0.62, 0.9, 2 * len(radius))
            radius = np.concatenate([radius * share ** (1 / 3), radius * (1 - share) ** (1 / 3)])
    start, end = np.concatenate(starts), np.concatenate(ends)
    keep = (np.abs(end[:, 0]) < half - 6) & (np.abs(end[:, 1]) < depth)
    keep &= (end[:, 2] < apex) & (end[:, 2] > base) & (np.abs(start[:, 0]) > 15)
    tubes = [array[keep].astype(np.float32) for array in (start, end, np.concatenate(radii))]
    for array in tubes:
        array.setflags(write=False)  # anatomies are cached and shared between images
    return Vessels(*tubes)
