"""Sets of DICOM files: the RSNA pneumonia challenge and VinDr-CXR as published."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from pipeline.manifest import load_manifest
from pipeline.manifest.kinds.dicom import DicomSource
from tests.pipeline.manifest.trees import MANIFESTS, Ingested, Tree, ingest_set

RSNA_CLASSES = {
    "Normal": "normal",
    "No Lung Opacity / Not Normal": "not_normal",
    "Lung Opacity": "lung_opacity",
}


def test_rsna_takes_one_class_from_the_rows_of_all_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(tmp_path / "rsna")
    rows, expected = [], {}
    for number in range(15):
        found = list(RSNA_CLASSES)[number % 3]
        patient = str(UUID(int=number))
        name = tree.dicom(f"stage_2_train_images/{patient}.dcm", PatientID=patient)
        expected[Path(name).name] = RSNA_CLASSES[found]
        rows += [(patient, found)] * (1 + number % 4)
    disagreeing, missing, unknown = (str(UUID(int=number)) for number in (90, 91, 92))
    rows += [(disagreeing, "Normal"), (disagreeing, "Lung Opacity"), (missing, "Normal")]
    for patient in (disagreeing, unknown):
        tree.dicom(f"stage_2_train_images/{patient}.dcm", PatientID=patient)
    tree.table("stage_2_detailed_class_info.csv", ("patientId", "class"), rows)
    monkeypatch.setenv("RSNA_PNEUMONIA", str(tree.folder))
    rsna = ingest_set("rsna_pneumonia", tmp_path)
    assert rsna.labels() == expected
    assert rsna.patients() == {name: name.removesuffix(".dcm") for name in expected}
    assert rsna.refused == {
        f"{disagreeing}.dcm": "rows of the table disagree",
        f"{unknown}.dcm": "not in the table",
        missing: "file missing",
    }
    assert set(rsna.records["sex"]) == {"F"}
    assert set(rsna.records["age_band"]) == {"40-49"}
    assert rsna.cohort.info.findings == ()


@pytest.fixture(scope="module")
def vindr(tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    folder = tmp_path_factory.mktemp("vindr")
    tree = Tree(folder / "vindr")
    manifest = load_manifest(MANIFESTS / "vindr_cxr.yaml")
    names: list[dict[str, str]] = []
    for source in manifest.sources:
        assert isinstance(source, DicomSource)
        names.append({finding: column for column, finding in (source.label.columns or {}).items()})
    train, test = names
    tables: dict[str, list[list[object]]] = {"train": [], "test": []}

    def scan(part: str, number: int, *readings: set[str]) -> str:
        columns = train if part == "train" else test
        image = f"{number:032x}"
        for reader, found in enumerate(readings):
            cells = [int(finding in found) for finding in columns]
            tables[part].append([image, *([f"R{reader + 8}"] if part == "train" else []), *cells])
        return tree.dicom(f"{part}/{image}.dicom", PatientID="", PatientName="")

    for number, name in enumerate([*(manifest.classes or ()), *(manifest.classes or ())]):
        scan("train", number, {name}, {name}, {name})
    scan("train", 900, {"cardiomegaly", "edema"}, {"cardiomegaly"}, {"no_finding"})
    scan("train", 901, {"edema"}, {"edema"}, {"no_finding"})
    scan("train", 902, {"edema"}, {"ild"}, {"copd"})
    scan("test", 903, {"other_disease", "pneumonia"})
    for part, columns in (("train", train), ("test", test)):
        reader = ["rad_id"] if part == "train" else []
        tree.table(
            f"annotations/image_labels_{part}.csv", ["image_id", *reader, *columns.values()], tables[part]
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VINDR_CXR", str(tree.folder))
        return ingest_set("vindr_cxr", folder)


def test_vindr_lets_most_readers_decide_each_finding(vindr: Ingested) -> None:
    two_of_three = f"{900:032x}.dicom"
    assert vindr.labels()[two_of_three] == "cardiomegaly"
    assert vindr.findings(two_of_three) == {"cardiomegaly": "present"}
    tested = f"{903:032x}.dicom"
    assert vindr.labels()[tested] == "pneumonia"
    assert vindr.findings(tested) == {"pneumonia": "present", "other_disease": "present"}
    assert len(vindr.cohort.info.findings) == 27
    assert vindr.refused == {
        f"{901:032x}.dicom": "none of the scan's findings is a class",
        f"{902:032x}.dicom": "no label",
    }


def test_vindr_says_that_no_patients_are_known_and_keeps_no_test_part(vindr: Ingested) -> None:
    assert not vindr.cohort.info.has_patient_ids
    assert "no patient ids" in vindr.cohort.info.notes[0]
    assert set(vindr.parts("vindr").values()) == {"train", "test"}
    assert load_manifest(MANIFESTS / "vindr_cxr.yaml").split.keep_test is None
