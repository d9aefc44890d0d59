"""One phantom radiograph: the solids of a patient, seen in one view, through the imaging chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.phantom import projection
from pipeline.phantom.anatomy import Anatomy, build_anatomy
from pipeline.phantom.findings import Finding, build_finding, enlarged_ratio, fill
from pipeline.phantom.projection import MU_CORTICAL, MU_FAT, MU_LUNG, MU_SOFT, MU_SPONGY
from pipeline.phantom.settings import CLASSES, FINDINGS
from pipeline.phantom.solids import Array, Ellipsoid, SectionStack, Span, deposit_tubes, hull, overlap

_STREAM_VIEW, _STREAM_NOISE = 31, 32
_SHELL = 1.5  # mm of cortical bone around ribs and clavicles
_FOCUS = 1800.0  # mm from focal spot to detector, the usual distance of a chest stand


@dataclass(frozen=True, slots=True)
class View:
    """How one image of a patient was taken.

    Attributes:
        shape: (H, W) of the image.
        spacing: pixel pitch at the detector in mm.
        shift: (x, z) in mm of the image centre from the centre of the thorax.
        yaw: rotation of the patient about the long axis in radians.
        lean: sideways lean, x per z.
        focus: distance from focal spot to detector in mm.
        gap: distance from the middle of the patient to the detector in mm.
        exposure: factor on the dose.
        scatter: scatter-to-primary ratio behind the mediastinum.
        contrast, brightness: display curve.
        breath: change of the height of the lungs' base by inspiration, as a factor on z below the centre.
    """

    shape: tuple[int, int]
    spacing: float
    shift: tuple[float, float]
    yaw: float
    lean: float
    focus: float
    gap: float
    exposure: float
    scatter: float
    contrast: float
    brightness: float
    breath: float


class Rays:
    """Frontal position in the patient of the ray through each pixel, plane by plane (diverging beam)."""

    def __init__(self, view: View) -> None:
        height, width = view.shape
        self.view = view
        pitch = view.spacing
        self._u = ((np.arange(width) + 0.5 - width / 2) * pitch + view.shift[0]).astype(np.float32)[None, :]
        heights = (height / 2 - 0.5 - np.arange(height)) * pitch + view.shift[1]
        self._v = heights.astype(np.float32)[:, None]
        self._planes: dict[int, tuple[Array, Array]] = {}

    def magnification(self, y: float) -> float:
        """Size on the detector over size in the patient, for a plane at depth y in mm."""
        return self.view.focus / (self.view.focus - (self.view.gap - y))

    def at(self, y: float) -> tuple[Array, Array]:
        """x (H, W) and z (H, 1), both in mm and in the patient's frame, on the plane at depth y.

        Planes are 8 mm apart: the error of magnification is under 0.3 mm at the edge of the field.
        """
        key = round(y / 8)
        if key not in self._planes:
            depth = key * 8.0
            scale = np.float32(1 / self.magnification(depth))
            z = self._v * scale
            z = np.where(z < 0, z * np.float32(self.view.breath), z)
            x = self._u * scale - np.float32(self.view.lean) * z - np.float32(self.view.yaw * depth)
            self._planes[key] = (x, z)
        return self._planes[key]

    def pixels(self, points: Array) -> Array:
        """Column and row, (N, 2), of points (N, 3) in mm."""
        height, width = self.view.shape
        z = np.where(points[:, 2] < 0, points[:, 2] / self.view.breath, points[:, 2])
        x = points[:, 0] + self.view.lean * points[:, 2] + self.view.yaw * points[:, 1]
        scale = self.view.focus / (self.view.focus - (self.view.gap - points[:, 1])) / self.view.spacing
        column = x * scale - self.view.shift[0] / self.view.spacing + (width / 2 - 0.5)
        row = -z * scale + self.view.shift[1] / self.view.spacing + (height / 2 - 0.5)
        return np.stack([column, row], axis=1).astype(np.float32)


def build_view(patient_seed: int, view_seed: int, image_size: int, anatomy: Anatomy) -> View:
    """View number `view_seed` of a patient: framing, posture, exposure and display."""
    framing = np.random.default_rng([patient_seed, _STREAM_VIEW])
    # Framing follows the patient's size (the collimator is set by hand), a little anew in each view.
    zoom = float(framing.uniform(1.24, 1.36))
    aspect = float(framing.uniform(0.86, 1.16))
    rng = np.random.default_rng([patient_seed, _STREAM_VIEW, view_seed])
    width_mm = anatomy.thoracic_width * zoom * float(rng.uniform(0.98, 1.03))
    aspect = float(np.clip(aspect * rng.uniform(0.98, 1.02), 0.86, 1.16))
    if aspect < 1:
        shape = (image_size, max(16, round(image_size * aspect)))
    else:
        shape = (max(16, round(image_size / aspect)), image_size)
    spacing = width_mm * max(1.0, 330 * aspect / width_mm) / shape[1]
    return View(
        shape=shape,
        spacing=spacing,
        shift=(float(rng.normal(0, 4)), float(rng.normal(2, 5))),
        yaw=float(np.clip(rng.normal(0, 0.035), -0.08, 0.08)),
        lean=float(np.clip(rng.normal(0, 0.018), -0.045, 0.045)),
        focus=_FOCUS,
        gap=anatomy.body.b[30] + 45,
        exposure=float(np.exp(rng.normal(0, 0.3))),
        scatter=float(rng.uniform(0.35, 0.7)),
        contrast=float(rng.uniform(0.9, 1.12)),
        brightness=float(rng.normal(0, 0.16)),
        breath=float(rng.uniform(0.97, 1.03)),
    )


def path_integral(anatomy: Anatomy, findings: Sequence[Finding], rays: Rays) -> Array:
    """Line integral of attenuation along each ray, (H, W), dimensionless, >= 0."""
    path = _soft_tissue(anatomy, rays)
    x, z = rays.at(anatomy.lungs.y)
    scale = np.where(x < 0, np.float32(anatomy.lung_scale[0]), np.float32(anatomy.lung_scale[1]))
    lung = anatomy.lungs.span(np.abs(x) * scale, z)
    solids: list[Ellipsoid | SectionStack] = [anatomy.mediastinum]
    solids += [*anatomy.heart, *anatomy.aorta, *anatomy.domes]
    inner = [solid.span(*rays.at(solid.y)) for solid in solids]
    centre = hull(inner)
    air = lung.chord() - overlap(lung, centre)
    vessel = anatomy.descending_aorta.span(*rays.at(anatomy.descending_aorta.y))
    air = np.maximum(air - np.maximum(overlap(lung, vessel) - overlap(centre, vessel), 0), 0)
    path -= air * np.float32(MU_SOFT - MU_LUNG)
    filled = fill(findings, x, z, lung=lung, air=air)
    path += filled * np.float32(MU_SOFT - MU_LUNG)
    air = air - filled
    # A vessel shows only against the air that is left around it.
    vessels = _vessels(anatomy, rays)
    for root in anatomy.hila:
        vessels = vessels + root.span(*rays.at(root.y)).chord()
    path += vessels * np.minimum(air * np.float32(1 / 60), 1) * np.float32(MU_SOFT - MU_LUNG)
    path -= _gas(anatomy, rays)
    path += _bone(anatomy, rays)
    return np.maximum(path, 0)


def _soft_tissue(anatomy: Anatomy, rays: Rays) -> Array:
    body = anatomy.body.span(*rays.at(anatomy.body.y))
    length = body.chord()
    for arm in anatomy.arms:
        span = arm.span(*rays.at(arm.y))
        length = length + span.chord() - overlap(span, body)
    # The outer layer is fat: two thicknesses on each ray, less where the ray grazes the skin.
    fat = np.minimum(length, np.float32(2.2 * anatomy.fat))
    path = length * np.float32(MU_SOFT) - fat * np.float32(MU_SOFT - MU_FAT)
    for breast in anatomy.breasts:
        path = path + breast.span(*rays.at(breast.y)).half * np.float32(0.5 * (MU_SOFT + MU_FAT))
    return np.asarray(path, dtype=np.float32)


def _gas(anatomy: Anatomy, rays: Rays) -> Array:
    trachea = anatomy.trachea.span(*rays.at(anatomy.trachea.y)).chord()
    for part in (*anatomy.bronchi, anatomy.stomach):
        trachea = np.maximum(trachea, part.span(*rays.at(part.y)).chord())
    return trachea * np.float32(MU_SOFT)


def _bone(anatomy: Anatomy, rays: Rays) -> Array:
    x, z = rays.at(anatomy.spine.y)
    spine: Span = anatomy.spine.span(x, z)
    path = spine.chord() * np.float32(0.6 * (MU_SPONGY - MU_SOFT))
    # Cortical end plates and walls: where the chord of the body falls off, the shell is met edge on.
    path += np.minimum(spine.chord(), np.float32(3)) * np.float32(MU_CORTICAL - MU_SOFT)
    path += anatomy.cord.span(*rays.at(anatomy.cord.y)).chord() * np.float32(MU_SPONGY - MU_SOFT)
    for plate in anatomy.scapulae:
        span = plate.span(*rays.at(plate.y))
        path += span.chord() * np.float32(MU_SPONGY - MU_SOFT)
        path += np.minimum(span.chord(), np.float32(2)) * np.float32(MU_CORTICAL - MU_SOFT)
    for head in anatomy.humeri:
        path += head.span(*rays.at(head.y)).chord() * np.float32(MU_SPONGY - MU_SOFT)
    shell = np.float32(MU_CORTICAL - MU_SPONGY)
    whole = np.float32(MU_SPONGY - MU_SOFT)
    x, z = rays.at(0.0)
    for rib in anatomy.ribs:
        rows = rib.rows(z)
        if rows.stop > rows.start:
            outer, marrow = rib.chords(x[rows], z[rows], _SHELL)
            path[rows] += outer * whole + (outer - marrow) * shell
    return path + _clavicles(anatomy, rays) * np.float32(MU_CORTICAL * 0.5 + MU_SPONGY * 0.5 - MU_SOFT)


def _clavicles(anatomy: Anatomy, rays: Rays) -> Array:
    """Chord of both clavicles in mm: tubes along a curve with an S-shaped bend."""
    start, inner, outer, radius, bend = anatomy.clavicles
    x, z = rays.at(56.0)
    reach = anatomy.thoracic_width / 2 + 12 - start
    along = (np.abs(x) - np.float32(start)) * np.float32(1 / reach)
    line = np.float32(inner) + np.float32(outer - inner) * along
    line += np.float32(bend) * np.sin(np.float32(2 * np.pi) * along)
    slope = ((outer - inner) + bend * 2 * np.pi * np.cos(np.float32(2 * np.pi) * along)) / np.float32(reach)
    distance2 = np.square(z - line) / (1 + np.square(slope))
    thick = np.float32(radius) * (1 + np.float32(0.7) * np.square(np.clip(1 - along * 4, 0, 1)))
    ends = np.minimum(np.clip((along + np.float32(0.04)) * 30, 0, 1), np.clip((1 - along) * 12, 0, 1))
    return 2 * np.sqrt(np.maximum(np.square(thick) - distance2, 0)) * ends


def _vessels(anatomy: Anatomy, rays: Rays) -> Array:
    """Mean chord in mm through pulmonary vessels in each pixel, (H, W)."""
    spacing = rays.view.spacing
    start, end = rays.pixels(anatomy.vessels.start), rays.pixels(anatomy.vessels.end)
    flat = end - start
    length = np.linalg.norm(anatomy.vessels.end - anatomy.vessels.start, axis=1) / spacing
    counts = np.maximum(np.ceil(np.hypot(flat[:, 0], flat[:, 1]) / 0.7), 1).astype(np.int64)
    which = np.repeat(np.arange(len(counts)), counts)
    step = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
    t = ((step + 0.5) / counts[which]).astype(np.float32)[:, None]
    normal = np.stack([-flat[:, 1], flat[:, 0]], axis=1)
    normal /= np.maximum(np.hypot(normal[:, :1], normal[:, 1:]), 1e-3)
    points = np.stack([start[which] + flat[which] * t, normal[which]], axis=1)
    radii = (anatomy.vessels.radius / spacing)[which]
    mean = deposit_tubes(
        points, radii, (length / counts)[which].astype(np.float32), np.zeros(2, np.float32), rays.view.shape
    )
    return mean * np.float32(spacing)


def render_phantom(
    patient_seed: int, findings: str | Sequence[str], image_size: int, view_seed: int = 0
) -> np.ndarray:
    """One phantom chest radiograph.

    Args:
        patient_seed: seed of the patient; with the same seed and another finding only the finding differs,
            but a mass keeps clear of an enlarged heart.
        findings: one of CLASSES, or several of them, which are all shown.
        image_size: longer side in pixels; the shorter one is 0.86 to 1 of it.
        view_seed: number of the image of this patient: posture, framing, exposure and noise.

    Returns:
        (H, W) uint16 in [0, 4095]; dense is bright, as in MONOCHROME2. Row 0 is at the head, column 0 at
        the patient's right.

    Raises:
        ValueError: an unknown finding or an image smaller than 32 pixels.
    """
    return render_view(patient_seed, findings, image_size, view_seed)[0]


def render_view(
    patient_seed: int, findings: str | Sequence[str], image_size: int, view_seed: int = 0
) -> tuple[np.ndarray, View]:
    """As `render_phantom`, with the view (pixel pitch and so on) beside the image."""
    anatomy, solids, view = build_scene(patient_seed, findings, image_size, view_seed)
    path = path_integral(anatomy, solids, Rays(view))
    rng = np.random.default_rng([patient_seed, _STREAM_NOISE, view_seed])
    primary = projection.transmit(path)
    fluence = projection.add_scatter(primary, path, view.spacing, view.scatter)
    signal = projection.detect(fluence, view.spacing, view.exposure, rng)
    signal = projection.detector_blur(signal, 0.55)
    return projection.present(signal, view.spacing, view.contrast, view.brightness), view


def build_scene(
    patient_seed: int, findings: str | Sequence[str], image_size: int, view_seed: int = 0
) -> tuple[Anatomy, tuple[Finding, ...], View]:
    """Anatomy, solids of the findings and view behind one image: its known truth.

    Raises:
        ValueError: an unknown finding or an image smaller than 32 pixels.
    """
    named = (findings,) if isinstance(findings, str) else tuple(findings)
    if not set(named) <= set(CLASSES):
        raise ValueError(f"findings={findings!r} must be of {', '.join(CLASSES)}")
    if image_size < 32:
        raise ValueError(f"image_size={image_size} must be at least 32")
    ratio = enlarged_ratio(patient_seed) if "cardiomegaly" in named else None
    anatomy = build_anatomy(patient_seed, ratio)
    solids = (build_finding(patient_seed, name, anatomy) for name in FINDINGS if name in named)
    return (
        anatomy,
        tuple(solid for solid in solids if solid is not None),
        build_view(patient_seed, view_seed, image_size, anatomy),
    )
