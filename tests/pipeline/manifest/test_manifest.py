"""Manifests: every mistake is one message with field and remedy, and the shipped ones are right."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.errors import ManifestError
from pipeline.manifest import load_manifest
from pipeline.manifest.kinds.dicom import DicomSource
from pipeline.manifest.kinds.images import ImageSource
from pipeline.manifest.kinds.medmnist import MedmnistSource
from pipeline.manifest.kinds.nifti import NiftiSource
from pipeline.manifest.label_rules import CellRule, LabelRule, PublishedRule
from pipeline.manifest.paths import expand_path
from pipeline.manifest.rules import AttributeRule, GeometryRule, PatientRule, SplitRule
from pipeline.manifest.schema import schema_text
from pipeline.manifest.table_rules import Join, TableRule

FOLDER = Path(__file__).resolve().parents[3] / "data_manifests"
GOOD = """
name: small
sources:
  - kind: images
    path: scans
    label: {folder: 0}
    patient: {pattern: "(p[0-9]+)_"}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "m.yaml"
    path.write_text(text, encoding="utf-8")
    return path


SHIPPED = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_manifest_loads_and_names_licence_citation_and_access(name: str) -> None:
    manifest = load_manifest(FOLDER / f"{name}.yaml")
    assert manifest.name == name
    assert manifest.license
    assert manifest.citation
    assert manifest.description
    assert manifest.access or {source.kind for source in manifest.sources} == {"phantom"}
    assert manifest.classes
    assert len(manifest.classes) > 1


@pytest.mark.parametrize("name", SHIPPED)
def test_the_readme_tells_of_each_shipped_manifest_and_of_its_variable(name: str) -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    line = next(line for line in readme.splitlines() if line.startswith(f"| `{name}.yaml`"))
    for variable in set(
        re.findall(r"\$\{([A-Z0-9_]+)\}", (FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    ):
        assert variable == "PHOSPHOR_DATA" or f"`{variable}`" in line


def test_the_page_on_data_explains_every_key_of_the_rules() -> None:
    page = (FOLDER.parent / "docs" / "your-data.md").read_text(encoding="utf-8")
    rules = [TableRule, Join, LabelRule, CellRule, PublishedRule, PatientRule, AttributeRule, MedmnistSource]
    for rule in [*rules, DicomSource, NiftiSource, ImageSource, GeometryRule, SplitRule]:
        for key in rule.model_fields:
            assert re.search(rf"\b{key}\b", page), f"{rule.__name__}.{key}"


def test_the_schema_file_is_the_models_schema() -> None:
    assert (FOLDER / "schema.json").read_text(encoding="utf-8") == schema_text()
    assert json.loads(schema_text())["properties"]["sources"]


@pytest.mark.parametrize(
    ("change", "field", "remedy"),
    [
        (("name: small\n", ""), "name", "Add it"),
        (("    path: scans\n", ""), "path", "Add it"),
        (("    label:", "    lable:"), "lable", "Did you mean 'label'"),
        (("kind: images", "kind: pictures"), "sources", "dicom, nifti, images"),
        (("name: small", "name: ../up"), "name", "README"),
        (("{folder: 0}", "{folder: 0, column: x}"), "label", "exactly one"),
        (("{folder: 0}", "{column: x}"), "", "requires a table"),
        (('"(p[0-9]+)_"', '"p[0-9"'), "pattern", "regular expression"),
        (('"(p[0-9]+)_"', '"p"'), "pattern", "one group"),
        (('{pattern: "(p[0-9]+)_"}', "{tag: PatientID}"), "", "requires a DICOM source"),
        (("name: small", "name: small\nsplit: {keep_test: kaggle}"), "", "not a published split"),
        (("{folder: 0}", "{folder: 0, vlues: {a: b}}"), "vlues", "Did you mean 'values'"),
        (("    path: scans\n", "    path: scans\n    select: {view: [PA]}\n"), "", "requires a table"),
        (("    path: scans\n", "    path: scans\n    frames: each\n"), "frames", "It is not allowed here"),
        (
            ("{folder: 0}", "{value: a}\n    published_splits: {own: {folder: 0, vale: b}}"),
            "published_splits.own.vale",
            "Did you mean 'value'",
        ),
        (
            ("{folder: 0}", "{value: a}\n    published_splits: {own: {folder: 0, value: b}}"),
            "published_splits.own",
            "exactly one of column, lists",
        ),
        (
            ("{folder: 0}", "{value: a}\n    attributes: {sex: {colum: b}}"),
            "attributes.sex.colum",
            "Did you mean 'column'",
        ),
        (
            ("{folder: 0}", "{column: a}\n    table: {path: t.csv, repeated: any}"),
            "",
            "several findings",
        ),
        (("name: small", "name: small\nname: again"), "name", "Keep one"),
        (("name: small", "name: &a small\ncitation: *a"), "manifest", "Write the value out"),
        (("name: small", "name: [small"), "m.yaml", "line"),
    ],
)
def test_a_wrong_manifest_is_refused_with_field_and_remedy(
    tmp_path: Path, change: tuple[str, str], field: str, remedy: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        load_manifest(written(tmp_path, GOOD.replace(*change)))
    assert field in caught.value.field
    assert remedy in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "name: \x00", "[" * 5000, "!!python/object:os.system {}"])
def test_a_file_that_is_no_manifest_is_refused_and_not_a_crash(tmp_path: Path, text: str) -> None:
    with pytest.raises(ManifestError):
        load_manifest(written(tmp_path, text))


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="the manifest does not exist"):
        load_manifest(tmp_path / "none.yaml")
    with pytest.raises(ManifestError, match="larger than"):
        load_manifest(written(tmp_path, GOOD + "# " + "x" * 2**20))


def test_paths_are_relative_to_the_manifest_and_variables_are_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = load_manifest(written(tmp_path, GOOD))
    assert manifest.resolve("scans", "f") == tmp_path / "scans"
    monkeypatch.setenv("PHOSPHOR_DATA", "/data")
    assert manifest.resolve("${PHOSPHOR_DATA}/x", "f") == Path("/data/x")
    monkeypatch.delenv("PHOSPHOR_DATA")
    assert expand_path("${PHOSPHOR_DATA}/x", tmp_path)[1] == "PHOSPHOR_DATA"
    with pytest.raises(ManifestError, match="PHOSPHOR_DATA is not set"):
        manifest.resolve("${PHOSPHOR_DATA}/x", "f")


def test_the_digest_names_the_content_and_not_the_place(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (load_manifest(written(tmp_path / name, GOOD)) for name in "ab")
    other = load_manifest(written(tmp_path, GOOD.replace("small", "large")))
    assert first.digest() == second.digest() != other.digest()


def test_of_places_in_braces_the_first_that_exists_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SET", str(tmp_path))
    text = "${SET}/{,part 1/}labels.csv{.gz,}"
    assert expand_path(text, Path("/elsewhere")) == (tmp_path / "labels.csv.gz", "")
    (tmp_path / "part 1").mkdir()
    for name in ("part 1/labels.csv", "part 1/labels.csv.gz", "labels.csv"):
        (tmp_path / name).touch()
        assert expand_path(text, Path("/elsewhere")) == (tmp_path / name, "")
    assert expand_path("{part 2,part 1}", tmp_path) == (tmp_path / "part 1", "")
    # Without a comma they are no choice.
    assert expand_path("{one}", tmp_path) == (tmp_path / "{one}", "")
    monkeypatch.delenv("SET")
    assert expand_path(text, tmp_path)[1] == "SET"


@pytest.mark.parametrize(
    ("manifest", "variable", "names"),
    [
        ("nih_chestxray14", "NIH_CHESTXRAY14", ["Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv"]),
        (
            "padchest",
            "PADCHEST",
            [f"PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv{end}" for end in ("", ".gz")],
        ),
        ("mimic_cxr_jpg", "MIMIC_CXR_JPG", [f"mimic-cxr-2.0.0-metadata.csv{end}" for end in (".gz", "")]),
    ],
)
def test_tables_are_found_as_they_are_published_packed_or_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manifest: str, variable: str, names: list[str]
) -> None:
    monkeypatch.setenv(variable, str(tmp_path))
    read = load_manifest(FOLDER / f"{manifest}.yaml")
    for name in names:
        (tmp_path / name).touch()
        assert isinstance(read.sources[0], ImageSource)
        assert read.sources[0].table is not None
        assert [read.resolve(path, "table") for path in read.sources[0].table.paths] == [tmp_path / name]
        (tmp_path / name).unlink()
