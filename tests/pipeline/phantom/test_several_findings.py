"""Several findings of a patient: plan, physics, table, and the cohort that ingest makes of them."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ManifestError
from pipeline.manifest import load_manifest
from pipeline.phantom import (
    CLASSES,
    FINDINGS,
    PhantomIndex,
    PhantomSettings,
    planted_findings,
    render_phantom,
    write_phantom_cohort,
)
from pipeline.phantom.anatomy import build_anatomy
from pipeline.phantom.findings import Consolidation, Effusion, Mass, build_finding, enlarged_ratio, fill
from pipeline.phantom.render import Rays, build_scene, path_integral
from pipeline.phantom.settings import plan_patient
from tests.known_findings import KnownFindings, ingest_findings
from tests.pipeline.phantom.cohort_folders import Stop, rows_of, tree

PLAIN = PhantomSettings(num_patients=24, image_size=48, nifti_share=0.25, seed=4)
SEVERAL = PLAIN.model_copy(update={"several_share": 0.6, "uncertain_share": 0.15})
SOLID = ("consolidation", "effusion", "mass")
MANIFESTS = Path(__file__).resolve().parents[3] / "data_manifests"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> PhantomIndex:
    return write_phantom_cohort(tmp_path_factory.mktemp("plain") / "cohort", PLAIN)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> PhantomIndex:
    return write_phantom_cohort(tmp_path_factory.mktemp("several") / "cohort", SEVERAL)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> KnownFindings:
    return ingest_findings(tmp_path_factory.mktemp("known"), uncertain_share=0.2)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_cohort_of_one_finding_is_named_and_labelled_as_before_there_were_several(
    plain: PhantomIndex,
) -> None:
    default = "968fe326540300460277fa1a99725099382597d8aafd3e29b32fa00352867213"
    assert PhantomSettings().digest() == default
    assert PhantomSettings(several_share=0.0, uncertain_share=0.0).digest() == default
    manifest = load_manifest(MANIFESTS / "phantom.yaml")
    assert manifest.digest() == "55bc2c2cfafbec3754e5ea927265b0318700a138ad8bbc8ba31f7deba9e6933d"
    labels = "d7be83e2c69203f2b6df2b056bca000ae58bb6d09b70121f6e636d9192b1a4bb"
    marker = "9683d12708c898fd1c6814fb8a1286582d0370d3ddb70ead121ffa770fb33333"
    assert sha256(plain.labels_csv) == labels
    assert sha256(plain.folder / "phantom.json") == marker
    changed = {
        PLAIN.model_copy(update=new).digest() for new in ({"several_share": 0.1}, {"uncertain_share": 0.1})
    }
    assert len(changed | {PLAIN.digest()}) == 3


def test_more_findings_are_added_and_nothing_else_of_the_plan_changes() -> None:
    cohort = PhantomSettings(num_patients=400, seed=9)
    few, many = (cohort.model_copy(update={"several_share": share}) for share in (0.2, 0.5))
    counts: dict[int, int] = dict.fromkeys(range(4), 0)
    for index in range(400):
        one, two, three = (plan_patient(settings, index) for settings in (cohort, few, many))
        assert one.findings == (() if one.label == "normal" else (one.label,))
        assert set(one.findings) <= set(two.findings)
        assert len(two.findings) <= len(three.findings)
        assert three.label == next((name for name in FINDINGS if name in three.findings), "normal")
        assert three.findings == tuple(name for name in FINDINGS if name in three.findings)
        same = {"label": one.label, "findings": one.findings}
        assert three.model_copy(update=same) == one
        counts[len(three.findings)] += 1
    with_finding = 400 - counts[0]
    assert (counts[2] + counts[3]) / with_finding == pytest.approx(0.5, abs=0.07)
    assert counts[3] / (counts[2] + counts[3]) == pytest.approx(0.5, abs=0.1)


def test_further_findings_follow_the_weights_of_the_classes() -> None:
    weights = {"mass": 1.0, "effusion": 0.2, "cardiomegaly": 0.8}
    cohort = PhantomSettings(class_weights=weights, several_share=1.0)
    plans = [plan_patient(cohort, index) for index in range(50)]
    assert {plan.findings for plan in plans} == {("effusion", "mass", "cardiomegaly")}
    two = [plan_patient(cohort.model_copy(update={"several_share": 0.5}), index) for index in range(600)]
    pairs = [plan.findings for plan in two if len(plan.findings) == 2]
    assert pairs.count(("mass", "cardiomegaly")) > 2 * pairs.count(("effusion", "mass"))


def test_uncertain_cells_have_their_share_whatever_the_truth() -> None:
    cohort = PhantomSettings(several_share=0.5, uncertain_share=0.3, seed=2)
    certain = cohort.model_copy(update={"uncertain_share": 0.0})
    plans = [plan_patient(cohort, index) for index in range(800)]
    assert [plan.findings for plan in plans] == [plan_patient(certain, i).findings for i in range(800)]
    for name in FINDINGS:
        for present in (True, False):
            unread = [name in plan.uncertain for plan in plans if (name in plan.findings) is present]
            assert np.mean(unread) == pytest.approx(0.3, abs=0.09)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"several_share": 1.5}, "several_share"),
        ({"uncertain_share": -0.1}, "uncertain_share"),
        ({"several_share": 0.5, "class_weights": {"normal": 1.0, "mass": 1.0}}, "several_share"),
    ],
)
def test_settings_refuse_what_cannot_be_made(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        PhantomSettings(**change)


@pytest.mark.parametrize("finding", CLASSES)
def test_one_finding_named_in_a_tuple_is_the_image_of_that_finding(finding: str) -> None:
    for seed in range(4):
        alone = render_phantom(seed, finding, 48, 1)
        np.testing.assert_array_equal(render_phantom(seed, (finding,), 48, 1), alone)
    np.testing.assert_array_equal(render_phantom(3, (), 48), render_phantom(3, "normal", 48))


def test_the_files_of_patients_with_one_finding_are_those_of_the_plain_cohort(
    plain: PhantomIndex, several: PhantomIndex
) -> None:
    truth, before = planted_findings(several.folder), planted_findings(plain.folder)
    assert truth.keys() == before.keys()
    same = {file for file in truth if truth[file] == before[file]}
    assert 10 < len(same) < len(truth) - 10
    for file in truth:
        equal = (several.folder / file).read_bytes() == (plain.folder / file).read_bytes()
        assert equal is (file in same)


def reached(seed: int, findings: tuple[str, ...], added: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Line integrals without and with a further finding, and the rays that its solid can reach."""
    anatomy, solids, view = build_scene(seed, (*findings, added), 64)
    rays = Rays(view)
    x, z = rays.at(anatomy.lungs.y)
    normal, alone, _ = build_scene(seed, findings, 64)
    if added == "cardiomegaly":
        # The enlarged heart also leaves a few rays, because it rests on the diaphragm at another height.
        hearts = [part.span(*rays.at(part.y)).half for part in (*normal.heart, *anatomy.heart)]
        place = np.maximum.reduce(hearts) > 0
    else:
        assert normal is anatomy
        solid = build_finding(seed, added, anatomy)
        assert solid is not None
        lung = anatomy.lungs.span(np.abs(x) * 0.9, z)
        place = solid.filled(x, z, lung, np.full_like(lung.half, 500)) > 0
    return path_integral(normal, alone, rays), path_integral(anatomy, solids, rays), place


# A mass keeps clear of an enlarged heart: it moves.
@pytest.mark.parametrize(
    ("first", "second"),
    [pair for pair in itertools.permutations(FINDINGS, 2) if pair != ("mass", "cardiomegaly")],
)
def test_a_second_finding_only_adds_attenuation_and_only_where_its_solid_is(first: str, second: str) -> None:
    for seed in range(6):
        before, after, place = reached(seed, (first,), second)
        np.testing.assert_array_equal(after[~place], before[~place])
        assert second == "cardiomegaly" or (after - before).min() > -1e-3
        if second != "mass":
            # A mass may hide in a consolidation.
            assert np.mean(after - before > 0.25) > 9 / 1024


@pytest.mark.parametrize("first", ["consolidation", "effusion", "cardiomegaly"])
def test_pixels_change_where_the_solid_is_and_hardly_elsewhere(first: str) -> None:
    for seed in range(6):
        for second in set(SOLID) - {first}:
            _, _, place = reached(seed, (first,), second)
            change = render_phantom(seed, (first, second), 64).astype(float) - render_phantom(seed, first, 64)
            # Scatter, blur and the display curve reach beyond the solid.
            assert np.abs(change[place]).mean() > 2.5 * np.abs(change[~place]).mean()


def test_findings_never_fill_more_air_than_there_is_on_a_ray() -> None:
    shared = 0
    for seed in range(10):
        anatomy, solids, view = build_scene(seed, FINDINGS, 64)
        assert [type(solid) for solid in solids] == [Consolidation, Effusion, Mass]
        assert anatomy is build_anatomy(seed, enlarged_ratio(seed))
        x, z = Rays(view).at(anatomy.lungs.y)
        lung = anatomy.lungs.span(np.abs(x), z)
        air = lung.chord() * np.float32(0.8)
        together = fill(solids, x, z, lung=lung, air=air)
        alone = [fill((solid,), x, z, lung=lung, air=air) for solid in solids]
        for solid, filled in zip(solids, alone, strict=True):
            np.testing.assert_array_equal(filled, np.minimum(solid.filled(x, z, lung, air), air))
        assert together.min() >= 0
        assert (air - together).min() >= 0
        assert (together - np.maximum.reduce(alone)).min() > -1e-3
        assert (together - sum(alone)).max() < 1e-3
        shared += bool((sum(alone) - together).max() > 1)
        np.testing.assert_allclose(fill(solids[::-1], x, z, lung=lung, air=air), together, atol=1e-3)
        drowned = Effusion(0, 1e4, 0.0, anatomy.thoracic_width / 2)
        np.testing.assert_allclose(fill((*solids, drowned), x, z, lung=lung, air=air), air, rtol=1e-6)
        # An effusion fills its share of the air at any depth, also beside a mass.
        _, effusion, mass = alone
        both = fill(solids[1:], x, z, lung=lung, air=air)
        np.testing.assert_allclose(
            air - both, (air - effusion) * (air - mass) / np.maximum(air, 1e-3), atol=1e-3
        )
    # In some patients two solids share a ray, and their sum would be too much.
    assert shared >= 3


def test_the_order_in_which_findings_are_named_does_not_matter() -> None:
    for seed in range(3):
        image = render_phantom(seed, FINDINGS, 48)
        np.testing.assert_array_equal(render_phantom(seed, FINDINGS[::-1], 48), image)


def test_unknown_findings_are_refused() -> None:
    with pytest.raises(ValueError, match="findings"):
        render_phantom(0, ("mass", "flu"), 64)


def test_the_table_has_a_cell_for_each_finding_and_the_truth_stands_beside_it(several: PhantomIndex) -> None:
    rows = rows_of(several)
    truth = planted_findings(several.folder)
    assert list(rows[0]) == ["file", "patient_id", "label", "sex", "age", *FINDINGS]
    assert [row["file"] for row in rows] == list(truth)
    seen: set[str] = set()
    for row in rows:
        for name in FINDINGS:
            assert row[name] in {"-1", str(int(name in truth[row["file"]]))}
            seen.add(row[name])
        assert row["label"] == (truth[row["file"]] or ("normal",))[0]
    assert seen == {"0", "1", "-1"}
    assert {len(shown) for shown in truth.values()} == {0, 1, 2, 3}
    told = {(row["patient_id"], *(row[name] for name in ("label", *FINDINGS))) for row in rows}
    shown = {(row["patient_id"], truth[row["file"]]) for row in rows}
    assert len(told) == len(shown) == SEVERAL.num_patients


def test_an_interrupted_cohort_goes_on_and_ends_in_the_same_bytes(
    several: PhantomIndex, tmp_path: Path
) -> None:
    folder = tmp_path / "cohort"
    with pytest.raises(KeyboardInterrupt):
        write_phantom_cohort(folder, SEVERAL, Stop(9))
    assert planted_findings(folder) == planted_findings(several.folder)
    assert not write_phantom_cohort(folder, SEVERAL).reused
    assert tree(folder) == tree(several.folder)
    assert write_phantom_cohort(folder, SEVERAL).reused


def test_the_cohort_holds_the_findings_shown_and_two_at_uncertain_cells(known: KnownFindings) -> None:
    table = {row["file"]: row for row in rows_of(known.phantom)}
    names = known.cohort.info.findings
    assert names == tuple(sorted(FINDINGS))
    uncertain = np.array([[table[file][name] == "-1" for name in names] for file in known.files])
    assert uncertain.any(axis=0).all()
    np.testing.assert_array_equal(known.cohort.findings(), np.where(uncertain, 2, known.shown))
    assert set(known.shown.sum(axis=1)) == {0, 1, 2, 3}
    patients = known.cohort.records()["patient_id"]
    assert (
        len({(patient, *row) for patient, row in zip(patients, known.shown, strict=True)})
        == patients.nunique()
    )


def test_the_class_is_the_first_certain_finding_and_only_scans_of_an_open_class_are_refused(
    known: KnownFindings,
) -> None:
    labels = dict(zip(known.files, known.cohort.records()["label"], strict=True))
    rows = rows_of(known.phantom)
    refused = 0
    for row in rows:
        present = [name for name in FINDINGS if row[name] == "1"]
        if present or "-1" not in [row[name] for name in FINDINGS]:
            assert labels[row["file"]] == (present or ["normal"])[0]
        else:
            assert row["file"] not in labels
            refused += 1
    assert 0 < refused == known.cohort.reference.counts["rejected"] == len(rows) - len(labels)


def test_without_uncertain_cells_every_scan_is_taken_and_its_class_is_the_label_of_the_table(
    tmp_path: Path,
) -> None:
    known = ingest_findings(tmp_path)
    labels = {row["file"]: row["label"] for row in rows_of(known.phantom)}
    assert dict(zip(known.files, known.cohort.records()["label"], strict=True)) == labels
    np.testing.assert_array_equal(known.cohort.findings(), known.shown)


def test_a_manifest_of_several_findings_needs_their_priority(tmp_path: Path) -> None:
    text = (MANIFESTS / "phantom_findings.yaml").read_text(encoding="utf-8")
    path = tmp_path / "manifest.yaml"
    path.write_text(text.replace("priority:", "# priority:"), encoding="utf-8")
    with pytest.raises(ManifestError, match="priority"):
        load_manifest(path)
