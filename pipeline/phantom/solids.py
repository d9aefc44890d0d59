"""Chord lengths of simple solids along near-parallel rays: ellipsoids, section stacks, tubes and ribs.

Coordinates in mm: x to the patient's left (image right), y forward, z up. Rays run along y. What a ray
meets of a convex solid is a span (middle and half-length along y), so that overlaps of solids are exact.
Everything is float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
_EPSILON = np.float32(1e-6)


class Span(NamedTuple):
    """Part of each ray inside a solid.

    Attributes:
        mid: middle along y, mm, broadcastable to (H, W).
        half: half of the chord length, mm, (H, W); 0 where the ray misses.
    """

    mid: Array | float
    half: Array

    def chord(self) -> Array:
        """Chord length of each ray in mm, (H, W)."""
        return 2.0 * self.half


def overlap(first: Span, second: Span) -> Array:
    """Length in mm, (H, W), that each ray spends in both spans."""
    top = np.minimum(first.mid + first.half, second.mid + second.half)
    bottom = np.maximum(first.mid - first.half, second.mid - second.half)
    return np.asarray(np.maximum(top - bottom, 0), dtype=np.float32)


def hull(spans: list[Span]) -> Span:
    """Smallest span that holds all given ones: their union where they touch one another."""
    low: Any = np.float32(1e6)
    high: Any = np.float32(-1e6)
    for span in spans:
        hit = span.half > 0
        low = np.minimum(low, np.where(hit, span.mid - span.half, np.float32(1e6)))
        high = np.maximum(high, np.where(hit, span.mid + span.half, np.float32(-1e6)))
    half = np.maximum((high - low) * np.float32(0.5), 0)
    return Span(np.where(half > 0, (high + low) * np.float32(0.5), np.float32(0)), half)


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """An ellipsoid, tilted in the frontal (x, z) plane.

    Attributes:
        x, y, z: centre in mm.
        a, b, c: semi-axes in mm along the tilted x, along y and along the tilted z.
        tilt: rotation in radians in the frontal plane; positive lowers the patient's left end.
    """

    x: float
    y: float
    z: float
    a: float
    b: float
    c: float
    tilt: float = 0.0

    def span(self, x: Array, z: Array) -> Span:
        """Span of the rays at frontal position (x, z) in mm; x and z broadcast to (H, W)."""
        return Span(self.y, self.b * np.sqrt(self.inside(x, z)))

    def inside(self, x: Array, z: Array) -> Array:
        """1 - rho^2 in [0, 1], (H, W), with rho the elliptic radius in the frontal plane: 1 at the centre."""
        dx, dz = x - np.float32(self.x), z - np.float32(self.z)
        if self.tilt:
            cos, sin = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
            dx, dz = cos * dx - sin * dz, sin * dx + cos * dz
        radius = np.square(dx * np.float32(1 / self.a)) + np.square(dz * np.float32(1 / self.c))
        return np.asarray(np.maximum(1 - radius, 0), dtype=np.float32)

    def half_width(self) -> float:
        """Half of the extent along x in mm, tilt included."""
        return float(np.hypot(self.a * np.cos(self.tilt), self.c * np.sin(self.tilt)))

    def half_height(self) -> float:
        """Half of the extent along z in mm, tilt included."""
        return float(np.hypot(self.a * np.sin(self.tilt), self.c * np.cos(self.tilt)))


@dataclass(frozen=True, slots=True)
class SectionStack:
    """A generalised elliptic cylinder: an elliptic section at each height, from tables.

    Attributes:
        z: heights of the table in mm, increasing; beyond them there is nothing.
        x: centre of the section along x in mm at each height.
        a: half-width in mm at each height.
        b: half-depth in mm at each height.
        y: centre along y in mm.
        square: 0 for an elliptic section; towards 1 the section grows box-like.
    """

    z: tuple[float, ...]
    x: tuple[float, ...]
    a: tuple[float, ...]
    b: tuple[float, ...]
    y: float = 0.0
    square: float = 0.0

    def span(self, x: Array, z: Array) -> Span:
        """Span of the rays at (x, z) in mm; z must be a column (H, 1) and x broadcastable to (H, W)."""
        heights = z[:, 0]
        a = _interp(heights, self.z, self.a)
        b = _interp(heights, self.z, self.b)
        b[(heights < self.z[0]) | (heights > self.z[-1])] = 0
        centre = _interp(heights, self.z, self.x)
        inverse = (1 / np.maximum(a, _EPSILON))[:, None]
        root = np.sqrt(np.maximum(1 - np.square((x - centre[:, None]) * inverse), 0))
        if self.square:
            root = np.float32(1 - self.square) * root + np.float32(self.square) * np.sqrt(root)
        return Span(self.y, b[:, None] * root)

    def half_width_at(self, z: float) -> float:
        """Half-width of the section in mm at height z."""
        return float(np.interp(z, self.z, self.a))


def _interp(at: Array, z: tuple[float, ...], values: tuple[float, ...]) -> Array:
    return np.interp(at, z, values).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Rib:
    """A pair of ribs: an elliptic ring of elliptic cross-section in a forward-sloping plane.

    Seen from the front it is an ellipse whose upper arc is the back of the rib and whose lower arc the front.

    Attributes:
        z: height in mm of the lateral turn.
        a: half-width of the ring in mm.
        b: half-depth of the ring in mm.
        rise: height in mm of the posterior end over the lateral turn.
        drop: depth in mm of the anterior arc below the lateral turn.
        slope: extra descent per mm of lateral distance.
        radius: half of the rib's height in mm.
        depth: half of the rib's thickness in mm.
        front: fraction of `a` at which bone gives way to cartilage in front.
    """

    z: float
    a: float
    b: float
    rise: float
    drop: float
    slope: float
    radius: float
    depth: float
    front: float

    def rows(self, z: Array) -> slice:
        """Rows of the column z (H, 1), decreasing, that the pair can touch."""
        top = self.z + self.rise + self.slope * self.a + self.radius + 2
        bottom = self.z - self.drop - self.radius - 2
        heights = -z[:, 0]
        return slice(int(np.searchsorted(heights, -top)), int(np.searchsorted(heights, -bottom)))

    def chords(self, x: Array, z: Array, shell: float) -> tuple[Array, Array]:
        """Outer and inner (marrow) chord lengths in mm of rays at (x, z), broadcast to (H, W).

        The distance to the ellipse is the first-order one (value of the implicit function over its
        gradient), and the chord of the oblique tube is that of the upright one times arc length in space
        over arc length in projection.

        Args:
            x: positions in mm.
            z: heights in mm.
            shell: thickness of the cortical shell in mm.

        Returns:
            The two chords, each (H, W).
        """
        side = np.abs(x)
        level = z - np.float32(self.z) + np.float32(self.slope) * (side - np.float32(self.a))
        upper = level > 0
        c = np.where(upper, np.float32(1 / self.rise), np.float32(1 / self.drop))
        p, q = side * np.float32(1 / self.a), level * c
        rho = np.sqrt(p * p + q * q) + _EPSILON
        gz = q * c
        gx = p * np.float32(1 / self.a) + np.float32(self.slope) * gz
        distance = rho * (rho - 1) / np.sqrt(gx * gx + gz * gz + np.float32(1e-12))
        cos2 = np.square(np.minimum(p / rho, 1))
        flat = np.float32(self.a**2) * (1 - cos2) + cos2 / np.square(c)
        oblique = np.sqrt(1 + np.float32(self.b**2) * cos2 / flat)
        ramp = np.where(upper, p * 12 - np.float32(0.9), (p - np.float32(self.front)) * 6)
        oblique *= np.minimum(np.maximum(ramp, 0), 1) * np.float32(2)
        scaled = np.square(distance)
        outer = self.depth * np.sqrt(np.maximum(1 - scaled * np.float32(self.radius**-2), 0))
        marrow = self.radius - shell
        inner = (self.depth - shell) * np.sqrt(np.maximum(1 - scaled * np.float32(marrow**-2), 0))
        return outer * oblique, inner * oblique


def deposit_tubes(points: Array, radii: Array, step: Array, origin: Array, shape: tuple[int, int]) -> Array:
    """Pixel-averaged chord length of thin tubes, by depositing their volume along the centrelines.

    Args:
        points: (N, 2, 2) centreline samples, last axis (column, row) in pixels; axis 1 holds the sample and
            the unit normal of the projected tube.
        radii: (N,) radius of the tube in pixels at each sample.
        step: (N,) length of centreline in pixels that each sample stands for.
        origin: (2,) offset in pixels added to every sample.
        shape: (H, W) of the image.

    Returns:
        (H, W) mean chord in pixels; the sum over the image is the volume that falls inside.
    """
    # A tube thinner than a pixel is a line to it; the spread over the bilinear footprint is wider anyway.
    thick = len(radii) > 0 and float(radii.max()) > 1
    offsets = np.array([-0.75, -0.25, 0.25, 0.75] if thick else [0.0], dtype=np.float32)
    # Chord at each offset over the diameter, scaled so that the volume pi r^2 is kept exactly.
    profile = np.sqrt(1 - offsets**2)
    profile = (np.pi * profile / profile.sum()).astype(np.float32)
    spot = points[:, None, 0] + origin + offsets[None, :, None] * radii[:, None, None] * points[:, None, 1]
    weight = (profile[None, :] * np.square(radii)[:, None] * step[:, None]).ravel()
    column, row = spot[..., 0].ravel(), spot[..., 1].ravel()
    height, width = shape
    c0, r0 = np.floor(column), np.floor(row)
    fc, fr = column - c0, row - r0
    inside = (c0 >= 0) & (c0 < width - 1) & (r0 >= 0) & (r0 < height - 1)
    index = np.where(inside, r0 * width + c0, 0).astype(np.int64)
    weight = np.where(inside, weight, 0)
    size = height * width
    image = np.bincount(index, weight * (1 - fc) * (1 - fr), size)
    image += np.bincount(index + 1, weight * fc * (1 - fr), size + 1)[:size]
    image += np.bincount(index + width, weight * (1 - fc) * fr, size + width)[:size]
    image += np.bincount(index + width + 1, weight * fc * fr, size + width + 1)[:size]
    return image.reshape(shape).astype(np.float32)
