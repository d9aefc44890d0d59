"""Findings as solids: consolidation, effusion and mass within the lungs (an enlarged heart is anatomy)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.phantom.anatomy import ENLARGED_RATIO, Anatomy
from pipeline.phantom.solids import Array, Ellipsoid, Span, overlap

_STREAM_FINDING = 21


@dataclass(frozen=True, slots=True)
class Consolidation:
    """Lung filled with fluid inside a soft-edged ellipsoid.

    Attributes:
        region: where.
        fill: share of the air replaced at the centre, in (0, 1].
        waves: (K, 4) texture: wave numbers along x and z in rad/mm, phase, amplitude.
    """

    region: Ellipsoid
    fill: float
    waves: Array

    def filled(self, x: Array, z: Array, lung: Span, air: Array) -> Array:
        """Length of lung in mm, (H, W), that the finding fills, out of the `air` mm on each ray."""
        inside = self.region.inside(x, z)
        texture = np.zeros_like(inside)
        rows = np.flatnonzero(inside.any(axis=1))
        if len(rows) == 0:
            return texture
        band = slice(int(rows[0]), int(rows[-1]) + 1)
        for kx, kz, phase, amplitude in self.waves:
            texture[band] += amplitude * np.sin(kx * x[band] + (kz * z[band] + phase))
        # The same field roughens the border, so that it does not follow the ellipsoid.
        edge = np.clip(inside * np.float32(1.7) + texture, 0, 1)
        edge = edge * edge * (3 - 2 * edge)
        reach = np.minimum(overlap(lung, Span(self.region.y, self.region.b * np.sqrt(inside))), air)
        return reach * np.clip(1 + texture, 0.2, 1.3) * edge * np.float32(self.fill)


@dataclass(frozen=True, slots=True)
class Effusion:
    """Fluid layered at the base of one or both lungs, with a meniscus that climbs the lateral wall.

    Attributes:
        side: -1 right, 1 left, 0 both.
        level: height in mm of the surface at the middle of the lung.
        rise: further height in mm at the lateral wall.
        half: half of the thoracic width in mm.
    """

    side: int
    level: float
    rise: float
    half: float

    def filled(self, x: Array, z: Array, lung: Span, air: Array) -> Array:
        """Length of lung in mm, (H, W), that the finding fills, out of the `air` mm on each ray."""
        del lung
        lateral = np.minimum(np.abs(x) * np.float32(1 / self.half), 1.1)
        surface = np.float32(self.level) + np.float32(self.rise) * np.square(lateral) * lateral
        # The surface is slanted in depth (fluid climbs the back wall), hence a gradual upper edge.
        full = np.clip((surface - z) * np.float32(1 / 26) + np.float32(0.5), 0, 1)
        full = full * full * (3 - 2 * full)
        if self.side:
            full = np.where(x * self.side > 0, full, 0)
        return air * full


@dataclass(frozen=True, slots=True)
class Mass:
    """A rounded solid mass inside a lung field.

    Attributes:
        body: main sphere-like ellipsoid, at least 35 mm across.
    """

    body: Ellipsoid

    def filled(self, x: Array, z: Array, lung: Span, air: Array) -> Array:
        """Length of lung in mm, (H, W), that the finding fills, out of the `air` mm on each ray."""
        return np.minimum(overlap(lung, self.body.span(x, z)), air)


Finding = Consolidation | Effusion | Mass


def fill(findings: Sequence[Finding], x: Array, z: Array, *, lung: Span, air: Array) -> Array:
    """Length of lung in mm that findings fill together on each ray.

    The positions of two findings along a ray are taken as independent: each fills its share of the air that
    the others leave.

    Args:
        findings: solids of one patient.
        x: (H, W) in mm, on the plane of the lungs.
        z: (H, 1) in mm.
        lung: extent of the lung along each ray.
        air: (H, W) length of air in mm.

    Returns:
        (H, W), in [0, air].
    """
    filled = np.zeros_like(air)
    for finding in findings:
        share = np.divide(air - filled, air, out=np.zeros_like(air), where=air > 0)
        filled = np.minimum(filled + finding.filled(x, z, lung, air) * share, air)
    return filled


def enlarged_ratio(patient_seed: int) -> float:
    """Cardio-thoracic ratio of a patient whose finding is cardiomegaly."""
    return float(np.random.default_rng([patient_seed, _STREAM_FINDING, 4]).uniform(*ENLARGED_RATIO))


def build_finding(patient_seed: int, finding: str, anatomy: Anatomy) -> Finding | None:
    """Solid of a finding in a patient, or None where the finding adds no solid of its own.

    Args:
        patient_seed: seed of the patient.
        finding: a class of the phantom cohort.
        anatomy: the patient's solids.

    Returns:
        The finding, or None for normal and cardiomegaly.
    """
    builders: dict[str, Callable[[np.random.Generator, Anatomy], Finding]] = {
        "consolidation": _consolidation,
        "effusion": _effusion,
        "mass": _mass,
    }
    if finding not in builders:
        return None
    stream = list(builders).index(finding) + 1
    return builders[finding](np.random.default_rng([patient_seed, _STREAM_FINDING, stream]), anatomy)


def _sides(rng: np.random.Generator) -> int:
    return -1 if rng.random() < 0.5 else 1


def _consolidation(rng: np.random.Generator, anatomy: Anatomy) -> Consolidation:
    side = _sides(rng)
    half = anatomy.thoracic_width / 2
    dome = anatomy.dome_tops[0 if side < 0 else 1]
    # Upper, middle or lower zone, lower ones more often.
    zone = int(rng.choice(3, p=[0.28, 0.32, 0.40]))
    z = (62.0, 5.0, dome + 34)[zone] + float(rng.normal(0, 7))
    x = side * half * float((0.52, 0.60, 0.62)[zone] + rng.normal(0, 0.03))
    region = Ellipsoid(
        x,
        float(rng.uniform(-25, 25)),
        z,
        float(rng.uniform(44, 58)),
        float(rng.uniform(60, 85)),
        float(rng.uniform(40, 56)),
        float(rng.normal(0, 0.4)),
    )
    count = 14
    direction = rng.uniform(0, 2 * np.pi, count)
    wave = 2 * np.pi / rng.uniform(16, 90, count)
    waves = np.stack(
        [
            wave * np.cos(direction),
            wave * np.sin(direction),
            rng.uniform(0, 2 * np.pi, count),
            rng.uniform(0.02, 0.075, count),
        ],
        axis=1,
    )
    return Consolidation(region, float(rng.uniform(0.62, 0.92)), waves.astype(np.float32))


def _effusion(rng: np.random.Generator, anatomy: Anatomy) -> Effusion:
    side = 0 if rng.random() < 0.2 else _sides(rng)
    dome = anatomy.dome_tops[0 if side < 0 else 1]
    return Effusion(
        side, dome + float(rng.uniform(8, 38)), float(rng.uniform(38, 62)), anatomy.thoracic_width / 2
    )


def _mass(rng: np.random.Generator, anatomy: Anatomy) -> Mass:
    side = _sides(rng)
    half = anatomy.thoracic_width / 2
    radius = float(rng.uniform(24, 34))
    # The left lower field is taken by the heart; elsewhere the mass keeps clear of dome and apex.
    low = anatomy.dome_tops[0] + radius + 14 if side < 0 else 4.0
    z = float(rng.uniform(low, 62))
    edge = float(np.interp(z, anatomy.lungs.z, anatomy.lungs.x)) + anatomy.lungs.half_width_at(z)
    inner = 34 + radius if z > 0 else max(34.0, anatomy.heart[1].half_width() * 1.3) + radius
    outer = min(edge, half) - radius - 4
    x = float(rng.uniform(min(inner, outer), max(inner, outer)))
    shape = rng.uniform(0.9, 1.1, 2)
    return Mass(
        Ellipsoid(
            side * x,
            float(rng.uniform(-20, 20)),
            z,
            radius * float(shape[0]),
            radius,
            radius * float(shape[1]),
            float(rng.normal(0, 0.6)),
        )
    )
