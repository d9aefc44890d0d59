"""Per-patient anatomy of the chest as solids in millimetres: the truth behind every phantom image.

Frame: x to the patient's left (image right), y forward (towards the detector), z up; the origin is the
centre of the thorax. Sizes are those of adults in anatomy textbooks, varied from patient to patient.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from pipeline.phantom.solids import Ellipsoid, Rib, SectionStack
from pipeline.phantom.vessels import Vessels, build_vessels

_STREAM_ANATOMY = 11
# Cardio-thoracic ratio: above 0.5 is taken as enlarged in radiology; the phantom leaves a gap around it.
NORMAL_RATIO = (0.40, 0.465)
ENLARGED_RATIO = (0.575, 0.66)


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Every solid of one patient.

    Attributes:
        sex: M or F.
        age: years.
        thoracic_width: greatest inner width of the rib cage in mm.
        body, arms, neck_top: outline of soft tissue; neck_top is where the table of the body ends, mm.
        lungs: envelope of the right lung in (|x|, z), used for both sides.
        lung_scale: factors on |x| for the right and the left lung.
        domes: right and left half of the diaphragm.
        heart: main body and right atrium.
        mediastinum, aorta, hila: central soft tissue; arch and pulmonary trunk; the roots of the lungs.
        trachea: air column, with the main bronchi as ellipsoids in `bronchi`.
        spine: vertebral column; `cord` the posterior elements.
        ribs, clavicles, scapulae, humeri: bone. Clavicles: inner x, inner z, outer z, radius, curve in mm.
        breasts: empty for some patients.
        stomach: gas under the left dome.
        fat: thickness of subcutaneous fat in mm.
        base, apex: lowest and highest point of the lungs in mm.
        dome_tops: height of the right and the left dome in mm.
    """

    sex: str
    age: int
    thoracic_width: float
    body: SectionStack
    arms: tuple[Ellipsoid, ...]
    lungs: SectionStack
    lung_scale: tuple[float, float]
    domes: tuple[Ellipsoid, Ellipsoid]
    heart: tuple[Ellipsoid, Ellipsoid]
    mediastinum: SectionStack
    aorta: tuple[Ellipsoid, ...]
    hila: tuple[Ellipsoid, ...]
    descending_aorta: SectionStack
    trachea: SectionStack
    bronchi: tuple[Ellipsoid, ...]
    spine: SectionStack
    cord: SectionStack
    ribs: tuple[Rib, ...]
    clavicles: tuple[float, float, float, float, float]
    scapulae: tuple[Ellipsoid, ...]
    humeri: tuple[Ellipsoid, ...]
    breasts: tuple[Ellipsoid, ...]
    stomach: Ellipsoid
    vessels: Vessels
    fat: float
    base: float
    apex: float
    dome_tops: tuple[float, float]


def demographics(patient_seed: int) -> tuple[str, int]:
    """Sex (M or F) and age in years of a patient, without building the solids."""
    rng = np.random.default_rng([patient_seed, _STREAM_ANATOMY])
    return _demographics(rng)


def _demographics(rng: np.random.Generator) -> tuple[str, int]:
    sex = "F" if rng.random() < 0.47 else "M"
    return sex, int(np.clip(rng.normal(56, 16), 19, 94))


@functools.lru_cache(maxsize=8)
def build_anatomy(patient_seed: int, ratio: float | None = None) -> Anatomy:
    """Anatomy of one patient.

    Args:
        patient_seed: seed of the patient; all solids but the heart depend on nothing else.
        ratio: cardio-thoracic ratio to give the heart; by default a normal one drawn from the seed.

    Returns:
        The solids.
    """
    rng = np.random.default_rng([patient_seed, _STREAM_ANATOMY])
    sex, age = _demographics(rng)
    habitus = float(np.clip(rng.normal(0, 1), -1.8, 2.0))
    width = float(rng.normal(268 if sex == "F" else 292, 11)) + 3 * habitus
    normal_ratio = float(rng.uniform(*NORMAL_RATIO))
    inspiration = float(rng.uniform(-1, 1))
    apex = float(rng.normal(132, 4))
    base = float(-128 - 8 * inspiration + rng.normal(0, 3))
    depth = float(rng.normal(82 if sex == "F" else 90, 5))
    fat = float(np.clip(14 + 8 * habitus + rng.normal(0, 2), 5, 34))
    right_top = float(-70 - 14 * inspiration + rng.normal(0, 3))
    left_top = float(right_top - rng.uniform(6, 15))
    wall = 15 + fat
    half = width / 2

    lungs = _lungs(rng, half, depth, apex, base)
    heart = build_heart(width, ratio if ratio is not None else normal_ratio, left_top)
    arch = float(rng.normal(16 + 0.06 * (age - 50), 1.2))
    return Anatomy(
        sex=sex,
        age=age,
        thoracic_width=width,
        body=_body(rng, half, depth, wall),
        arms=_arms(rng, half, wall),
        lungs=lungs,
        lung_scale=(1.0, float(rng.uniform(0.97, 1.03))),
        domes=(
            _dome(rng, -1, half, depth, top=right_top, base=base),
            _dome(rng, 1, half, depth, top=left_top, base=base),
        ),
        heart=heart,
        mediastinum=_mediastinum(rng, depth),
        aorta=(
            Ellipsoid(25, -5, 58, arch, 36, arch * 1.1, 0.2),
            Ellipsoid(23, 22, 28, 18, 30, 20, 0.5),
        ),
        hila=(
            Ellipsoid(-33, -2, 6 + float(rng.normal(0, 3)), 11, 13, 24, -0.35),
            Ellipsoid(35, -4, 14 + float(rng.normal(0, 3)), 10, 13, 19, 0.4),
        ),
        descending_aorta=SectionStack((-260, -60, 60), (8, 16, 22), (12, 12, 13), (12, 12, 13), y=-45),
        trachea=SectionStack((22, 40, 200), (1, 2, 0), (9, 8.5, 8.5), (8.5, 8.5, 8), y=-12),
        bronchi=(
            Ellipsoid(-15, -12, 18, 22, 6, 6.5, 0.75 - np.pi / 2 + 0.3),
            Ellipsoid(18, -14, 16, 26, 5.5, 5.5, 0.55),
        ),
        spine=_spine(rng),
        cord=SectionStack((-260, 200), (0, 0), (7, 5), (14, 10), y=-92),
        ribs=_ribs(rng, lungs, depth, apex),
        clavicles=(
            20.0,
            float(apex - 40 + rng.normal(0, 4)),
            float(apex - 14 + rng.normal(0, 8)),
            float(rng.normal(6.6, 0.4)),
            float(rng.normal(6, 1.5)),
        ),
        scapulae=_scapulae(rng, half),
        humeri=tuple(Ellipsoid(s * (half + wall + 26), -10, 92, 24, 23, 25) for s in (-1, 1)),
        breasts=_breasts(rng, sex, habitus, half, depth),
        stomach=Ellipsoid(
            float(half * 0.42),
            20,
            left_top - float(rng.uniform(20, 27)),
            float(rng.uniform(16, 30)),
            24,
            float(rng.uniform(8, 13)),
        ),
        vessels=build_vessels(patient_seed, half, depth, apex, base),
        fat=fat,
        base=base,
        apex=apex,
        dome_tops=(right_top, left_top),
    )


def build_heart(width: float, ratio: float, dome_top: float) -> tuple[Ellipsoid, Ellipsoid]:
    """Heart whose frontal width over the thoracic width is `ratio` by construction.

    A third of the width lies to the patient's right of the midline, as in a normal chest.

    Args:
        width: thoracic width in mm.
        ratio: cardio-thoracic ratio.
        dome_top: height in mm of the left dome, on which the heart rests.

    Returns:
        The main body and the right atrium.
    """
    size = ratio * width
    tilt = 0.62
    reach = 0.42 * size
    # For axes in proportion 1 to 0.72 the half-width is a * hypot(cos, 0.72 sin).
    a = reach / float(np.hypot(np.cos(tilt), 0.72 * np.sin(tilt)))
    depth = min(0.50 * size, 74.0)
    rise = a * float(np.hypot(np.sin(tilt), 0.72 * np.cos(tilt)))
    z = dome_top + rise - 16
    main = Ellipsoid(0.655 * size - reach, 22, z, a, depth, 0.72 * a, tilt)
    atrium = Ellipsoid(-0.345 * size + 0.2 * size, 14, z - 1, 0.2 * size, depth * 0.8, 0.3 * size)
    return main, atrium


def _lungs(rng: np.random.Generator, half: float, depth: float, apex: float, base: float) -> SectionStack:
    t = np.concatenate([np.linspace(0, 0.2, 9), np.linspace(0.25, 1, 16)])
    roundness = float(rng.uniform(0.42, 0.52))
    lateral = half * (1 - (1 - t) ** 2.5) ** roundness
    lateral[t > 0.85] *= 1 - 0.25 * (t[t > 0.85] - 0.85)
    medial = 8 + 26 * (1 - np.minimum(t / 0.3, 1)) ** 2
    medial = np.minimum(medial, 34)
    start = 44.0
    lateral = np.maximum(lateral, start + (half - start) * t)
    medial[0], lateral[0] = start - 0.5, start + 0.5
    front = depth * np.minimum(1, (1 - (1 - np.minimum(t / 0.5, 1)) ** 2) ** 0.6)
    front *= np.where(t > 0.8, 1 - 0.7 * ((t - 0.8) / 0.2) ** 2, 1)
    z = apex + (base - 22 - apex) * t
    order = np.argsort(z)
    return SectionStack(
        tuple(z[order]),
        tuple(((lateral + medial) / 2)[order]),
        tuple(((lateral - medial) / 2)[order]),
        tuple(front[order]),
        y=-4.0,
        square=0.55,
    )


def _body(rng: np.random.Generator, half: float, depth: float, wall: float) -> SectionStack:
    flank = half + wall
    neck = float(rng.normal(56, 4)) + 0.15 * wall
    z = np.array([-300, -150, -60, 10, 55, 85, 105, 120, 135, 150, 165, 185, 260], dtype=float)
    trunk = flank + np.array([-6.0, 0, 1, 2, 16, 38, 42, 26])
    shoulder = np.array([flank * 0.80, flank * 0.58, neck + 16, neck + 2, neck])
    a = np.concatenate([trunk, shoulder])
    b = np.array([1.0, 1.0, 1.0, 1.0, 0.97, 0.92, 0.86, 0.8, 0.74, 0.68, 0.62, 0.58, 0.56])
    b *= depth + wall * 0.8
    fine = np.linspace(z[0], z[-1], 80)
    kernel = np.array([1, 2, 3, 2, 1]) / 9.0
    smooth = [np.convolve(np.pad(np.interp(fine, z, v), 2, mode="edge"), kernel, "valid") for v in (a, b)]
    return SectionStack(
        tuple(fine), tuple(np.zeros(80)), tuple(smooth[0]), tuple(smooth[1]), y=-2.0, square=0.5
    )


def _arms(rng: np.random.Generator, half: float, wall: float) -> tuple[Ellipsoid, ...]:
    spread = float(rng.uniform(0.18, 0.42))
    return tuple(Ellipsoid(s * (half + wall + 38), -8, 10, 40, 44, 130, -s * spread) for s in (-1, 1))


def _dome(
    rng: np.random.Generator, side: int, half: float, depth: float, *, top: float, base: float
) -> Ellipsoid:
    centre = base - 14
    x = half * float(rng.uniform(0.47, 0.51))
    return Ellipsoid(side * x, 8, centre, half * 1.005 - x, depth * 1.0, top - centre)


def _mediastinum(rng: np.random.Generator, depth: float) -> SectionStack:
    top = float(rng.normal(27, 2.5))
    return SectionStack(
        (-260, -60, 0, 40, 80, 120, 160, 200),
        (0, 0, -1, -2, -3, -2, 0, 0),
        (28, 30, 29, 32, top + 5, top + 7, 44, 54),
        (depth, depth, depth * 0.95, depth * 0.85, depth * 0.65, 50, 50, 50),
        y=0.0,
        square=0.15,
    )


def _spine(rng: np.random.Generator) -> SectionStack:
    z = np.arange(-262.0, 212.0, 2.0)
    pitch = 27 - 0.022 * (z + 60)
    phase = np.cumsum(2.0 / pitch) + rng.random()
    disc = 0.5 + 0.5 * np.cos(2 * np.pi * phase)
    disc = np.clip((disc - 0.78) / 0.22, 0, 1)
    body = 17.5 - 0.028 * z
    curve = float(rng.normal(0, 2.2)) * np.sin((z + 80) / 95)
    return SectionStack(
        tuple(z),
        tuple(curve),
        tuple(body * (1 - 0.10 * disc)),
        tuple(16 * (1 - 0.55 * disc)),
        y=-58.0,
        square=0.6,
    )


def _ribs(rng: np.random.Generator, lungs: SectionStack, depth: float, apex: float) -> tuple[Rib, ...]:
    spacing = float(rng.normal(23.8, 0.6))
    steep = float(rng.uniform(0.85, 1.2))
    ribs = []
    for i in range(11):
        rise = (20 + 2.6 * i) * steep
        slope = 0.02 + 0.016 * i * steep
        back = apex + 6 - spacing * i + float(rng.normal(0, 0.7))
        # Two passes settle the lateral turn on the lung's edge at its own height.
        lateral = back - rise
        for _ in range(2):
            a = float(np.interp(lateral, lungs.z, lungs.x) + lungs.half_width_at(lateral)) + 3.5
            lateral = back - rise - slope * a
        a = max(a, 56.0)
        ribs.append(
            Rib(
                z=lateral,
                a=a,
                b=depth + 8,
                rise=rise,
                drop=(24 + 5.0 * min(i, 7)) * steep,
                slope=slope,
                radius=float(rng.normal(7.0, 0.3)),
                depth=4.4 - (0.8 if i < 2 else 0.0),
                front=float(0.50 + 0.035 * max(i - 4, 0) + rng.normal(0, 0.02)),
            )
        )
    return tuple(ribs)


def _scapulae(rng: np.random.Generator, half: float) -> tuple[Ellipsoid, ...]:
    out = float(rng.uniform(14, 30))
    return tuple(Ellipsoid(s * (half + out), -95, 52, 34, 3.2, 78, s * 0.20) for s in (-1, 1))


def _breasts(
    rng: np.random.Generator, sex: str, habitus: float, half: float, depth: float
) -> tuple[Ellipsoid, ...]:
    size = float(rng.uniform(46, 60)) + 5 * habitus
    drop = float(rng.uniform(-62, -40))
    if sex == "M":
        return ()
    return tuple(Ellipsoid(s * half * 0.56, depth + 12, drop, size * 1.12, size * 0.5, size) for s in (-1, 1))
