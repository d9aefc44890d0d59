"""Sets with several findings a scan: ChestX-ray14, CheXpert, MIMIC-CXR-JPG and PadChest as published."""

from __future__ import annotations

import pytest

from pipeline.manifest import load_manifest
from tests.pipeline.manifest.trees import MANIFESTS, Ingested, Tree, ingest_set

NIH_COLUMNS = (
    "Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender",
    "View Position", "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]",
)  # fmt: skip
NIH_FINDINGS = (
    "Hernia", "Pneumonia", "Fibrosis", "Edema", "Emphysema", "Cardiomegaly", "Pleural_Thickening",
    "Consolidation", "Pneumothorax", "Mass", "Nodule", "Atelectasis", "Effusion", "Infiltration",
)  # fmt: skip
OBSERVATIONS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other",
    "Fracture", "Support Devices",
)  # fmt: skip
IN_TEST = "patient stands in the kept test split"


def observed(**cells: str) -> list[str]:
    """Return the fourteen cells of a CheXpert row; a name's underscores stand for blanks."""
    given = {name.replace("_", " "): value for name, value in cells.items()}
    return [given.get(name, "") for name in OBSERVATIONS]


@pytest.fixture(scope="module")
def nih(tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    folder = tmp_path_factory.mktemp("nih")
    tree = Tree(folder / "nih")
    rows: list[tuple[object, ...]] = []
    train, test = [], []

    def scan(patient: int, follow_up: int, labels: str, part: list[str], age: str = "058Y") -> str:
        name = f"{patient:08d}_{follow_up:03d}.png"
        rows.append(
            (name, labels, follow_up, patient, age, "FM"[patient % 2], "PA", 2682, 2749, 0.143, 0.143)
        )
        part.append(name)
        tree.image(f"images_{1 + patient // 20:03d}/images/{name}")
        return name

    for number, finding in enumerate(["No Finding", *NIH_FINDINGS]):
        scan(2 * number + 1, 0, finding, train)
        scan(2 * number + 2, 0, finding, train)
    scan(1, 1, "Effusion|Mass", train)
    scan(40, 0, "Infiltration", test, "12")
    scan(40, 1, "Cardiomegaly|Emphysema|Effusion", test)
    scan(41, 0, "No Finding", test)
    scan(41, 1, "No Finding", train)  # the patient stands in both parts
    scan(42, 0, "Scoliosis", train)  # no label of the set
    train.append(scan(43, 0, "Nodule", test))  # in both lists
    rows.append(("00000044_000.png", "Mass", 0, 44, "30", "M", "AP", 1, 1, 1, 1))  # no such file
    tree.image("images_001/images/00000099_000.png")  # not in the table
    tree.table("Data_Entry_2017_v2020.csv", NIH_COLUMNS, rows)
    tree.lines("train_val_list.txt", train)
    tree.lines("test_list.txt", test)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIH_CHESTXRAY14", str(tree.folder))
        return ingest_set("nih_chestxray14", folder)


def test_chestxray14_gives_each_scan_its_rarest_class_and_all_its_findings(nih: Ingested) -> None:
    labels = {name.rpartition("/")[2]: label for name, label in nih.labels().items()}
    assert labels["00000001_000.png"] == "no_finding"
    assert labels["00000003_000.png"] == "hernia"
    assert labels["00000001_001.png"] == "mass"
    assert labels["00000040_001.png"] == "emphysema"
    assert nih.findings("images_001/images/00000001_001.png") == {"mass": "present", "effusion": "present"}
    assert nih.findings("images_001/images/00000001_000.png") == {}
    assert len(nih.cohort.info.findings) == 14
    assert nih.cohort.findings().shape == (len(nih.records), 14)
    assert nih.cohort.patients().shape == (len(nih.records),)


def test_chestxray14_keeps_its_test_list_and_refuses_what_cannot_be_told(nih: Ingested) -> None:
    tests = {name.rpartition("/")[2] for name in nih.records.index[nih.records["split"] == "test"]}
    assert tests == {"00000040_000.png", "00000040_001.png", "00000041_000.png"}
    assert {name.rpartition("/")[2]: reason for name, reason in nih.refused.items()} == {
        "00000041_001.png": IN_TEST,
        "00000042_000.png": "label not listed in the manifest",
        "00000043_000.png": "in several parts of a published split",
        "00000044_000.png": "file missing",
        "00000099_000.png": "not in the table",
    }
    assert "published split nih: 1 patients stand in both train and test" in nih.cohort.info.notes
    # Table and lists are read, though as no scan.
    assert nih.listing.unread == {}


def test_chestxray14_knows_patients_sex_age_and_view(nih: Ingested) -> None:
    row = nih.records.loc["images_001/images/00000001_001.png"]
    assert (row["patient"], row["sex"], row["age_band"], row["view"]) == ("1", "M", "50-59", "PA")
    assert nih.records.loc["images_003/images/00000040_000.png", "age_band"] == "10-19"
    same = nih.records.loc["images_001/images/00000001_000.png"]
    assert (same["patient_id"], same["split"]) == (row["patient_id"], row["split"])
    assert nih.cohort.info.has_patient_ids


BATCH = "CheXpert-v1.0 batch {} ({})".format
LAYOUTS = {
    "small": ("CheXpert-v1.0-small", "", {"train": ["train/"], "valid": ["valid/"]}),
    "full": ("CheXpert-v1.0", "", {"train": ["train/"], "valid": ["valid/"]}),
    "archives": (
        "CheXpert-v1.0",
        BATCH(1, "validate & csv") + "/",
        {
            "train": [BATCH(number + 1, f"train {number}") + "/" for number in (1, 2, 3)],
            "valid": [BATCH(1, "validate & csv") + "/valid/"],
        },
    ),
    "archives, tables outside": (
        "CheXpert-v1.0",
        "",
        {
            "train": [BATCH(number + 1, f"train {number}") + "/" for number in (1, 2, 3)],
            "valid": [BATCH(1, "validate & csv") + "/valid/"],
        },
    ),
}
"""Layout of CheXpert -> folder's name in the tables, where these lie, and where each part's patients lie."""


def chexpert_place(layout: str, part: str, patient: int) -> str:
    """Return the folder of a patient: the three archives of the train part follow one another."""
    places = LAYOUTS[layout][2][part]
    return f"{places[min(patient // 10, len(places) - 1)]}patient{patient:05d}"


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def chexpert(tmp_path_factory: pytest.TempPathFactory, layout: str) -> Ingested:
    folder = tmp_path_factory.mktemp("chexpert")
    tree = Tree(folder / "chexpert")
    tables: dict[str, list[list[object]]] = {"train": [], "valid": []}
    root, beside, _ = LAYOUTS[layout]

    def scan(part: str, patient: int, cells: list[str], view: str = "Frontal", *, study: int = 1) -> str:
        number = 1 if view == "Frontal" else 2
        name = f"study{study}/view{number}_{view.lower()}.jpg"
        side = "AP" if view == "Frontal" else ""
        said = f"{root}/{part}/patient{patient:05d}/{name}"
        tables[part].append([said, "Female", 68, view, side, *cells])
        return tree.image(f"{chexpert_place(layout, part, patient)}/{name}")

    classes = [name for name in OBSERVATIONS if name != "Support Devices"]
    for number, observation in enumerate(classes * 2):
        scan("train", number + 1, observed(**{observation.replace(" ", "_"): "1.0"}))
    scan("train", 1, observed(No_Finding="1.0"), "Lateral")
    scan("train", 1, observed(Edema="1.0", Pneumonia="-1.0", Fracture="0.0"), study=2)
    scan("train", 40, observed(Cardiomegaly="-1.0"))
    scan("train", 41, observed(No_Finding="1.0", Support_Devices="1.0"))
    scan("train", 42, observed(Support_Devices="1.0"))
    scan("train", 43, observed())
    scan("train", 44, observed(Edema="perhaps"))
    scan("valid", 64541, observed(**dict.fromkeys(("Edema", "Cardiomegaly"), "1.0")))
    tables["valid"].append([f"{root}/valid/patient64542/study1/view1_frontal.jpg", "Male", 40,
                            "Frontal", "PA", *observed(Edema="1.0")])  # fmt: skip
    tree.image(f"{chexpert_place(layout, 'train', 99)}/study1/view1_frontal.jpg")
    for part, rows in tables.items():
        tree.table(
            f"{beside}{part}.csv", ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS), rows
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHEXPERT", str(tree.folder))
        return ingest_set("chexpert", folder)


def test_chexpert_keeps_uncertain_observations_and_makes_no_class_of_them(
    chexpert: Ingested, layout: str
) -> None:
    name = f"{chexpert_place(layout, 'train', 1)}/study2/view1_frontal.jpg"
    assert chexpert.labels()[name] == "edema"
    assert chexpert.findings(name) == {"edema": "present", "pneumonia": "uncertain"}
    devices = f"{chexpert_place(layout, 'train', 41)}/study1/view1_frontal.jpg"
    assert chexpert.labels()[devices] == "no_finding"
    assert chexpert.findings(devices) == {"support_devices": "present"}
    valid = chexpert_place(layout, "valid", 64541)
    assert chexpert.labels()[f"{valid}/study1/view1_frontal.jpg"] == "cardiomegaly"
    assert {name.split("/")[-3]: reason for name, reason in chexpert.refused.items()} == {
        "patient00040": "label uncertain",
        "patient00042": "none of the scan's findings is a class",
        "patient00043": "no label",
        "patient00044": "label not listed in the manifest",
        "patient00099": "not in the table",
        "patient64542": "file missing",
    }


def test_chexpert_takes_frontal_views_and_says_how_many_it_left_out(chexpert: Ingested, layout: str) -> None:
    assert not any("lateral" in name for name in chexpert.records.index)
    assert any(
        "1 scans are excluded" in note and "Frontal/Lateral" in note for note in chexpert.listing.notes
    )
    parts = chexpert.parts("chexpert")
    valid = chexpert_place(layout, "valid", 64541)
    assert set(parts.values()) == {"train", "val", ""}
    assert {name.split("/")[-3]: part for name, part in parts.items() if part != "train"} == {
        "patient64541": "val",
        "patient64542": "",  # its row has no file
    }
    assert parts[f"{valid}/study1/view1_frontal.jpg"] == "val"
    assert chexpert.listing.unread == {}
    assert set(chexpert.records["view"]) == {"AP"}
    assert set(chexpert.records["sex"]) == {"F"}
    patient = chexpert_place(layout, "train", 1)
    first = chexpert.records.loc[f"{patient}/study1/view1_frontal.jpg"]
    second = chexpert.records.loc[f"{patient}/study2/view1_frontal.jpg"]
    assert first["patient"] == second["patient"] == "patient00001"
    assert first["split"] == second["split"]


@pytest.fixture(scope="module")
def mimic(tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    folder = tmp_path_factory.mktemp("mimic")
    tree = Tree(folder / "mimic")
    metadata: list[tuple[object, ...]] = []
    splits: list[tuple[object, ...]] = []
    labels: list[list[object]] = []

    def scan(subject: int, study: int, cells: list[str] | None, part: str, view: str = "PA") -> str:
        dicom = f"{subject:08x}-{study:08x}-{len(metadata):08x}-12345678-9abcdef0"
        metadata.append((dicom, subject, study, "CHEST (PA AND LAT)", view, 3056, 2544, 21800506, 213014.5))
        splits.append((dicom, study, subject, part))
        if cells is not None:
            labels.append([subject, study, *cells])
        return tree.image(f"files/p{str(subject)[:2]}/p{subject}/s{study}/{dicom}.jpg")

    classes = [name for name in OBSERVATIONS if name != "Support Devices"]
    for number, observation in enumerate(classes * 2):
        cells = observed(**{observation.replace(" ", "_"): "1.0"})
        scan(10000001 + number, 50000001 + number, cells, "validate" if number == 3 else "train")
    scan(10000001, 50000001, None, "train", "AP")  # a second image of the first study
    scan(10000001, 50000001, None, "train", "LATERAL")
    scan(11000001, 51000001, observed(No_Finding="1.0"), "test")
    scan(11000001, 51000002, observed(Edema="1.0"), "train")  # its patient stands in test
    scan(11000002, 51000003, None, "train")  # a study without labels
    scan(11000003, 51000004, observed(Edema="-1.0"), "train")
    tree.image("files/p10/p10000001/s50000001/nobody-knows-this.jpg")
    metadata.append(("gone", 11000004, 51000005, "CHEST", "PA", 1, 1, 1, 1))
    names = (
        "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows",
        "Columns", "StudyDate", "StudyTime",
    )  # fmt: skip
    tree.table("mimic-cxr-2.0.0-metadata.csv.gz", names, metadata)
    tree.table("mimic-cxr-2.0.0-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), splits)
    tree.table("mimic-cxr-2.0.0-chexpert.csv.gz", ("subject_id", "study_id", *OBSERVATIONS), labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIMIC_CXR_JPG", str(tree.folder))
        return ingest_set("mimic_cxr_jpg", folder)


def test_mimic_joins_labels_by_study_and_the_split_by_image(mimic: Ingested) -> None:
    first = mimic.records[mimic.records["patient"] == "10000001"]
    assert len(first) == 2
    assert set(first["label"]) == {"no_finding"}
    assert set(first["view"]) == {"PA", "AP"}
    assert first["split"].nunique() == 1
    reasons = {name.split("/")[-2]: reason for name, reason in mimic.refused.items() if "/" in name}
    assert reasons == {
        "s51000002": IN_TEST,
        "s51000003": "no label",
        "s51000004": "label uncertain",
        "s50000001": "not in the table",
    }
    assert mimic.refused["gone"] == "file missing"
    assert list(mimic.records["split"]).count("test") == 1
    assert set(mimic.parts("mimic").values()) == {"train", "val", "test", ""}
    assert any("1 scans are excluded" in note for note in mimic.listing.notes)


@pytest.fixture(scope="module")
def padchest(tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    folder = tmp_path_factory.mktemp("padchest")
    tree = Tree(folder / "padchest")
    rows: list[tuple[object, ...]] = []

    def scan(patient: str, labels: str, view: str = "PA", photometric: str = "MONOCHROME2") -> str:
        name = f"2168401113669640{len(rows):08d}_00-{len(rows):03d}-001.png"
        report = 'Sin cambios, =1+1, "comillas"\nsegunda línea'
        study = (name, len(rows) % 2, 20140101, f"study{len(rows)}")
        rows.append((*study, patient, 1950, "F", "", view, photometric, report, labels))
        return tree.image(f"{len(rows) % 2}/{name}", depth=16)

    shown = load_manifest(MANIFESTS / "padchest.yaml").sources[0].label.values  # type: ignore[union-attr]
    for number, finding in enumerate([*shown, *shown]):
        scan(f"patient-{number}", f"['{finding}']")
    scan("patient-0", "['normal', ' pleural effusion', 'loc basal']")
    scan("someone", "['scoliosis', 'cardiomegaly ']")
    scan("other", "['scoliosis']")
    scan("other", "[]")
    scan("other", "__import__('os')")
    scan("", "['normal']")
    scan("left-out", "['normal']", "L")
    scan("left-out", "['normal']", "PA", "MONOCHROME1")
    scan("lying", "['normal']", "AP_horizontal")
    names = (
        "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
        "ViewPosition_DICOM", "Projection", "PhotometricInterpretation_DICOM", "Report", "Labels",
    )  # fmt: skip
    tree.table("PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", names, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PADCHEST", str(tree.folder))
        return ingest_set("padchest", folder)


def test_padchest_reads_lists_of_findings_from_16_bit_files(padchest: Ingested) -> None:
    by_patient = padchest.records.groupby("patient")["label"].apply(list)
    assert by_patient["patient-0"] == ["normal", "pleural_effusion"]
    assert by_patient["someone"] == ["cardiomegaly"]
    assert by_patient["lying"] == ["normal"]
    assert sorted(padchest.refused.values()) == [
        "label cell is not a list",
        "no label",
        "none of the scan's findings is a class",
        "patient unknown",
    ]
    lying = padchest.records[padchest.records["patient"] == "lying"].iloc[0]
    assert (lying["view"], lying["sex"], lying["source_format"]) == ("AP", "F", "png")
    assert any("2 scans are excluded" in note for note in padchest.listing.notes)
