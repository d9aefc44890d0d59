"""Sets whose folders and names say it all: Kermany, Shenzhen and Montgomery, MURA, MedNIST as published."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipeline.manifest import load_manifest
from pipeline.sources.listing import list_scans
from tests.pipeline.manifest.trees import MANIFESTS, Tree, ingest_set


def test_kermany_keeps_equal_patient_numbers_of_train_and_test_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(tmp_path / "chest_xray")
    for number in range(1, 9):
        tree.image(f"train/PNEUMONIA/person{number}_bacteria_{number}.jpeg")
        tree.image(f"train/NORMAL/IM-{number:04d}-0001.jpeg")
    tree.image("train/PNEUMONIA/person1_virus_77.jpeg")
    tree.image("train/NORMAL/NORMAL2-IM-0001-0001.jpeg")
    tree.image("val/PNEUMONIA/person2_bacteria_99.jpeg")
    tree.image("test/PNEUMONIA/person1_virus_6.jpeg")
    tree.image("test/PNEUMONIA/person1_virus_7.jpeg")
    tree.image("test/NORMAL/NORMAL2-IM-0999-0001.jpeg")
    tree.image("train/OTHER/person3_virus_1.jpeg")
    tree.image("train/NORMAL/unnamed.jpeg")
    monkeypatch.setenv("KERMANY_CHEST_XRAY", str(tree.folder))
    kermany = ingest_set("kermany", tmp_path)
    patients = kermany.patients()
    assert patients["train/PNEUMONIA/person1_virus_77.jpeg"] == "train-person1"
    assert patients["test/PNEUMONIA/person1_virus_6.jpeg"] == "test-person1"
    assert patients["val/PNEUMONIA/person2_bacteria_99.jpeg"] == "train-person2"
    assert patients["train/NORMAL/NORMAL2-IM-0001-0001.jpeg"] != patients["train/NORMAL/IM-0001-0001.jpeg"]
    tests = kermany.records.index[kermany.records["split"] == "test"]
    assert set(tests) == {name for name in kermany.records.index if name.startswith("test/")}
    assert kermany.labels()["train/NORMAL/IM-0001-0001.jpeg"] == "normal"
    assert set(kermany.parts("kermany").values()) == {"train", "val", "test"}
    assert kermany.refused == {
        "train/OTHER/person3_virus_1.jpeg": "label not listed in the manifest",
        "train/NORMAL/unnamed.jpeg": "patient unknown",
    }
    assert "published split kermany: 1 patients stand in both train and val" in kermany.cohort.info.notes


def test_kermany_groups_the_real_files_as_the_table_of_patients_does(
    data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = data_root / "kermany_cxr"
    if not (folder / "manifest.csv").is_file():
        pytest.skip(f"real data is missing: {folder}")
    monkeypatch.setenv("KERMANY_CHEST_XRAY", str(folder))
    listing = list_scans(load_manifest(MANIFESTS / "kermany.yaml"))
    table = pd.read_csv(folder / "manifest.csv").set_index("file")
    names = [task.name for task in listing.tasks]
    assert sorted(names) == sorted(table.index)
    pairs = {(task.patient, table.loc[task.name, "patient_id"]) for task in listing.tasks}
    assert len(pairs) == table["patient_id"].nunique() == len({patient for patient, _ in pairs})
    assert [task.published[0] for task in listing.tasks] == list(table.loc[names, "split"])


@pytest.mark.parametrize(
    ("shenzhen", "montgomery"),
    [
        ("ChinaSet_AllFiles", "MontgomerySet"),
        ("Shenzhen-Hospital-CXR-Set", "Montgomery-County-CXR-Set/MontgomerySet"),
    ],
)
def test_shenzhen_and_montgomery_are_one_cohort_with_labels_from_the_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shenzhen: str, montgomery: str
) -> None:
    tree = Tree(tmp_path / "tb")
    expected = {}
    for number in range(1, 17):
        for folder, letters in ((shenzhen, "CHNCXR"), (montgomery, "MCUCXR")):
            name = f"{letters}_{number:04d}_{number % 2}.png"
            tree.image(f"{folder}/CXR_png/{name}")
            tree.lines(f"{folder}/ClinicalReadings/{name[:-4]}.txt", ["male 45yrs", "", "normal"])
            expected[name] = ("normal", "tuberculosis")[number % 2]
    tree.lines(f"{shenzhen}/CXR_png/Thumbs.db", ["no image"])
    tree.image(f"{montgomery}/ManualMask/leftMask/MCUCXR_0001_1.png")
    tree.image(f"{montgomery}/CXR_png/MCUCXR_0200_7.png")
    monkeypatch.setenv("NLM_TUBERCULOSIS", str(tree.folder))
    both = ingest_set("shenzhen_montgomery", tmp_path)
    assert both.labels() == expected
    assert both.patients() == {name: name.rpartition("_")[0] for name in expected}
    assert both.refused == {"MCUCXR_0200_7.png": "no label"}
    assert both.cohort.info.num_patients == 32


def test_mura_takes_label_and_patient_from_the_path_and_tests_on_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(tmp_path / "MURA-v1.1")
    for number in range(1, 13):
        kind = ("positive", "negative")[number % 2]
        for image in (1, 2):
            tree.image(f"train/XR_WRIST/patient{number:05d}/study1_{kind}/image{image}.png")
    tree.image("train/XR_HAND/patient00001/study2_negative/image1.png")
    tree.image("valid/XR_ELBOW/patient11185/study1_negative/image1.png")
    tree.image("valid/XR_ELBOW/patient11186/study1_positive/image1.png")
    tree.image("train/XR_HAND/patient11186/study1_positive/image1.png")
    tree.image("train/XR_HAND/patient00013/study1/image1.png")
    tree.lines("train_image_paths.csv", ["MURA-v1.1/train/XR_WRIST/patient00001/study1_positive/image1.png"])
    monkeypatch.setenv("MURA", str(tree.folder))
    mura = ingest_set("mura", tmp_path)
    labels = mura.labels()
    assert labels["train/XR_HAND/patient00001/study2_negative/image1.png"] == "normal"
    assert labels["train/XR_WRIST/patient00002/study1_positive/image1.png"] == "abnormal"
    tests = set(mura.records.index[mura.records["split"] == "test"])
    assert tests == {name for name in mura.records.index if name.startswith("valid/")}
    one = mura.records[mura.records["patient"] == "patient00001"]
    assert len(one) == 3
    assert one["split"].nunique() == 1
    assert mura.refused == {
        "train/XR_HAND/patient11186/study1_positive/image1.png": "patient stands in the kept test split",
        "train/XR_HAND/patient00013/study1/image1.png": "no label",
    }


def test_mednist_takes_its_two_kinds_of_x_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(tmp_path / "MedNIST")
    for number in range(12):
        for folder in ("CXR", "Hand", "HeadCT"):
            tree.image(f"{folder}/{number:06d}.jpeg")
    monkeypatch.setenv("MEDNIST", str(tree.folder))
    mednist = ingest_set("mednist", tmp_path)
    kinds = {"CXR": "chest", "Hand": "hand"}
    expected = {f"{kind}/{number:06d}.jpeg": kinds[kind] for kind in kinds for number in range(12)}
    assert mednist.labels() == expected
    assert mednist.cohort.info.num_patients == 24
