"""The physics and anatomy of the phantom: known laws, known truth, findings where they belong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.phantom import CLASSES, PhantomSettings, render_phantom
from pipeline.phantom import projection as physics
from pipeline.phantom.anatomy import build_anatomy
from pipeline.phantom.findings import Mass
from pipeline.phantom.render import Rays, build_scene, path_integral
from pipeline.phantom.settings import plan_patient
from pipeline.phantom.solids import Ellipsoid, SectionStack, Span, deposit_tubes, hull, overlap

lengths = st.floats(5, 120)


def grid(size: int = 81, extent: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    axis = np.linspace(-extent, extent, size, dtype=np.float32)
    return np.broadcast_to(axis[None, :], (size, size)), -axis[:, None]


@given(radius=lengths, x=st.floats(-90, 90), z=st.floats(-90, 90))
def test_chord_of_a_sphere_is_the_analytic_one(radius: float, x: float, z: float) -> None:
    sphere = Ellipsoid(0, 12, 0, radius, radius, radius)
    chord = sphere.span(np.array([[x]], np.float32), np.array([[z]], np.float32)).chord()[0, 0]
    expected = 2 * np.sqrt(max(radius**2 - x**2 - z**2, 0))
    assert chord == pytest.approx(expected, rel=1e-3, abs=0.1 * np.sqrt(radius / 5))


@given(a=lengths, b=lengths, c=lengths, tilt=st.floats(-1.5, 1.5))
@settings(max_examples=30)
def test_chords_of_a_tilted_ellipsoid_add_up_to_its_volume(a: float, b: float, c: float, tilt: float) -> None:
    x, z = grid(241, 130)
    step = float(x[0, 1] - x[0, 0])
    volume = float(Ellipsoid(0, 0, 0, a, b, c, tilt).span(x, z).chord().sum()) * step**2
    assert volume == pytest.approx(4 / 3 * np.pi * a * b * c, rel=0.04)


def test_a_straight_stack_is_an_elliptic_cylinder_that_ends_with_its_table() -> None:
    x, z = grid()
    chord = SectionStack((-50, 50), (0, 0), (40, 40), (25, 25)).span(x, z).chord()
    inside = np.abs(np.broadcast_to(z, chord.shape)) <= 50
    expected = 50 * np.sqrt(np.maximum(1 - (x / 40) ** 2, 0))
    np.testing.assert_allclose(chord[inside], expected[inside], atol=0.02)
    assert not chord[~inside].any()


@given(st.tuples(*[st.floats(-100, 100), st.floats(0, 60)] * 2))
def test_overlap_is_symmetric_and_never_more_than_the_smaller_span(spans: tuple[float, ...]) -> None:
    first = Span(spans[0], np.array([[spans[1]]]))
    second = Span(spans[2], np.array([[spans[3]]]))
    both = overlap(first, second)
    assert both == overlap(second, first)
    assert 0 <= both <= min(first.chord(), second.chord()) + 1e-4
    assert overlap(first, first) == pytest.approx(first.chord()[0, 0], abs=1e-4)
    assert hull([first, second]).chord() >= max(first.chord(), second.chord()) - 1e-4


def test_deposited_tubes_keep_their_volume() -> None:
    count, radius = 200, 3.0
    samples = np.stack([np.linspace(20, 79.7, count), np.full(count, 40.0)], axis=1)
    points = np.stack([samples, np.broadcast_to([0.0, 1.0], samples.shape)], axis=1).astype(np.float32)
    image = deposit_tubes(
        points, np.full(count, radius, np.float32), np.full(count, 0.3, np.float32), np.zeros(2), (90, 100)
    )
    assert image.sum() == pytest.approx(np.pi * radius**2 * 60, rel=1e-4)
    assert image[:35].sum() == image[45:].sum() == 0


@given(thickness=st.floats(0, 200))
def test_twice_the_thickness_squares_the_transmission(thickness: float) -> None:
    path = np.full((1, 1), thickness * physics.MU_SOFT, np.float32)
    assert physics.transmit(2 * path)[0, 0] == pytest.approx(physics.transmit(path)[0, 0] ** 2, rel=1e-4)


def test_attenuation_is_ordered_as_in_the_body() -> None:
    mus = [physics.MU_AIR, physics.MU_LUNG, physics.MU_FAT, physics.MU_SOFT, physics.MU_SPONGY]
    assert mus == sorted(mus)
    assert physics.MU_SPONGY < physics.MU_CORTICAL


@pytest.mark.parametrize("mean", [4.0, 60.0, 1000.0, 50_000.0])
def test_photon_counts_have_poisson_mean_and_variance(mean: float) -> None:
    counts = physics.count_photons(np.full((300, 300), mean, np.float32), np.random.default_rng(3))
    assert counts.mean() == pytest.approx(mean, abs=5 * np.sqrt(mean) / 300)
    assert counts.var() == pytest.approx(mean, rel=0.05)


def test_relative_noise_falls_with_the_root_of_exposure_and_with_pixel_pitch() -> None:
    def noise(exposure: float, spacing: float) -> float:
        flat = np.full((200, 200), 0.01, np.float32)
        signal = physics.detect(flat, spacing, exposure, np.random.default_rng(1))
        return float(signal.std() / signal.mean())

    assert noise(1, 1) / noise(4, 1) == pytest.approx(2, rel=0.05)
    assert noise(1, 1) / noise(1, 3) == pytest.approx(3, rel=0.05)


def test_scatter_fills_in_contrast_without_adding_detail() -> None:
    path = np.full((64, 64), 2.0, np.float32)
    path[20:40, 20:40] = 5.0
    primary = physics.transmit(path)
    total = physics.add_scatter(primary, path, spacing=5.0, ratio=0.5)
    assert (total > primary).all()
    assert total.max() / total.min() < primary.max() / primary.min()
    added = total - primary
    assert np.abs(np.diff(added, axis=0)).max() < 0.1 * np.abs(np.diff(primary, axis=0)).max()


def test_smoothing_and_blur_keep_a_constant_image() -> None:
    flat = np.full((50, 61), 7.0, np.float32)
    np.testing.assert_allclose(physics.smooth(flat, 9.0), flat, rtol=1e-5)
    np.testing.assert_allclose(physics.detector_blur(flat, 0.6), flat, rtol=1e-5)


def test_presentation_is_monotone_and_uses_twelve_bits() -> None:
    image = render_phantom(5, "normal", 256)
    assert image.dtype == np.uint16
    assert image.max() <= 4095
    assert np.ptp(image) > 2500
    assert np.std(image) > 400


def test_the_same_seeds_give_the_same_image_in_any_order() -> None:
    first = {key: render_phantom(*key) for key in [(1, "mass", 64, 0), (2, "normal", 64, 1)]}
    for key in reversed(first):
        np.testing.assert_array_equal(render_phantom(*key), first[key])
    build_anatomy.cache_clear()
    np.testing.assert_array_equal(render_phantom(1, "mass", 64, 0), first[1, "mass", 64, 0])


def test_views_and_patients_differ() -> None:
    base = render_phantom(1, "normal", 64, 0)
    for other in (render_phantom(1, "normal", 64, 1), render_phantom(2, "normal", 64, 0)):
        assert other.shape != base.shape or np.mean(other != base) > 0.5


@given(seed=st.integers(0, 2**62), finding=st.sampled_from(CLASSES))
@settings(max_examples=25)
def test_any_patient_renders_to_a_plausible_radiograph(seed: int, finding: str) -> None:
    image = render_phantom(seed, finding, 64)
    assert max(image.shape) == 64
    assert min(image.shape) >= 54
    # There is always something white (spine) and something darker than mid-grey (air, lung).
    assert image.max() > 2400
    assert np.percentile(image, 20) < 2600


@pytest.mark.parametrize(("finding", "size", "name"), [("flu", 64, "finding"), ("mass", 8, "image_size")])
def test_wrong_arguments_are_named(finding: str, size: int, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        render_phantom(0, finding, size)


def paths(seed: int, finding: str) -> tuple[np.ndarray, np.ndarray, Rays]:
    """Line integrals of a patient with and without a finding, in the same view."""
    anatomy, solids, view = build_scene(seed, finding, 96)
    rays = Rays(view)
    return path_integral(build_anatomy(seed), (), rays), path_integral(anatomy, solids, rays), rays


@pytest.mark.parametrize("finding", ["consolidation", "effusion", "mass"])
def test_a_finding_only_adds_attenuation_and_only_within_the_lungs(finding: str) -> None:
    for seed in range(8):
        without, with_finding, rays = paths(seed, finding)
        added = with_finding - without
        assert added.min() > -1e-3
        lungs = build_anatomy(seed).lungs
        x, z = rays.at(lungs.y)
        outside = lungs.span(np.abs(x) * 0.9, z).half == 0
        assert np.abs(added[outside]).max() < 1e-3
        # Enough to be seen at 32x32: at least 9 of 1024 pixels darker by a quarter of the photons or more.
        assert np.mean(added > 0.25) > 9 / 1024


def test_a_mass_is_at_least_35_mm_across_and_densest_where_it_is_centred() -> None:
    for seed in range(40):
        anatomy, solids, view = build_scene(seed, "mass", 96)
        (solid,) = solids
        assert isinstance(solid, Mass)
        body = solid.body
        assert 2 * min(body.a, body.b, body.c) >= 35
        rays = Rays(view)
        added = path_integral(anatomy, solids, rays) - path_integral(anatomy, (), rays)
        x, z = rays.at(body.y)
        rho = np.hypot(x - body.x, z - body.z)
        assert added[rho < 8].mean() > 0.4
        assert added[rho > body.half_width() + body.half_height()].max() < 1e-3


def test_an_effusion_lies_at_a_base_and_climbs_the_lateral_wall() -> None:
    for seed in range(12):
        without, with_finding, rays = paths(seed, "effusion")
        added = with_finding - without
        rows = np.average(np.arange(len(added)), weights=added.sum(axis=1))
        z = rays.at(0.0)[1][round(rows), 0]
        assert z < -20
        x = np.abs(rays.at(0.0)[0])
        highest = [
            np.flatnonzero((added * ((x > a) & (x < b))).max(axis=1) > 0.3)[0]
            for a, b in ((55, 75), (100, 118))
        ]
        assert highest[1] <= highest[0]


def test_the_cardiothoracic_ratio_separates_cardiomegaly_from_all_others() -> None:
    for seed in range(30):
        ratios = {}
        for finding in CLASSES:
            anatomy, _, view = build_scene(seed, finding, 256)
            rays = Rays(view)
            x, z = rays.at(anatomy.heart[0].y)
            heart = hull([part.span(x, z) for part in anatomy.heart]).half.max(axis=0) > 0
            x, z = rays.at(anatomy.lungs.y)
            chest = anatomy.lungs.span(np.abs(x), z).half.max(axis=0) > 0
            columns = np.flatnonzero(chest)
            ratios[finding] = heart.sum() / (columns[-1] - columns[0] + 1)
        assert ratios.pop("cardiomegaly") > 0.55
        assert max(ratios.values()) <= 0.48


def test_patients_are_planned_apart_and_every_class_gets_its_share() -> None:
    cohort = PhantomSettings(num_patients=200, seed=9)
    plans = [plan_patient(cohort, i) for i in range(200)]
    assert plan_patient(PhantomSettings(num_patients=5000, seed=9), 150) == plans[150]
    assert len({plan.patient_seed for plan in plans}) == 200
    assert {plan.num_images for plan in plans} == {1, 2, 3}
    assert 0.07 <= np.mean([plan.nifti for plan in plans]) <= 0.13
    shares = {name: np.mean([plan.label == name for plan in plans]) for name in CLASSES}
    for name, share in shares.items():
        assert share == pytest.approx(cohort.class_weights[name], abs=0.02)


@pytest.mark.parametrize(
    "change",
    [
        {"class_weights": {"cat": 1.0}},
        {"class_weights": {"normal": -1.0}},
        {"class_weights": {"normal": 0.0}},
        {"images_per_patient": (3, 1)},
        {"images_per_patient": (0, 1)},
        {"nifti_share": 1.5},
        {"num_patients": 0},
        {"colour": "red"},
    ],
)
def test_settings_refuse_what_cannot_be_made(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        PhantomSettings(**change)  # type: ignore[arg-type]
