"""The phantom cohort on disk, read back with pydicom and nibabel."""

from __future__ import annotations

import gzip
import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from pipeline.errors import DataError, OutputExistsError
from pipeline.phantom import PhantomIndex, PhantomSettings, planted_values, write_phantom_cohort
from pipeline.phantom import writer as phantom_writer
from pipeline.phantom.render import render_phantom
from pipeline.phantom.settings import plan_patient
from tests.pipeline.phantom.cohort_folders import Stop, rows_of, tree

SETTINGS = PhantomSettings(num_patients=24, image_size=48, nifti_share=0.25, seed=4)

# Header values of a phantom file that say nothing of a person, a place, a day or a study.
HARMLESS = {
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "Modality", "Manufacturer", "SeriesDescription",
    "ManufacturerModelName", "PatientSex", "PatientAge", "BodyPartExamined", "KVP",
    "DistanceSourceToDetector", "Exposure", "ImagerPixelSpacing", "ViewPosition", "SeriesNumber",
    "InstanceNumber", "PatientOrientation", "PhotometricInterpretation", "BurnedInAnnotation",
    "WindowCenter", "WindowWidth", "PresentationIntentType", "ImageLaterality", "RescaleIntercept",
    "RescaleSlope", "RescaleType", "PresentationLUTShape", "LossyImageCompression",
    "PixelIntensityRelationship", "ReasonForTheAttributeModification",
}  # fmt: skip


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> PhantomIndex:
    return write_phantom_cohort(tmp_path_factory.mktemp("phantom") / "cohort", SETTINGS)


def dense_is_bright(dataset: pydicom.Dataset) -> np.ndarray:
    pixels = dataset.pixel_array
    return 4095 - pixels if dataset.PhotometricInterpretation == "MONOCHROME1" else pixels


def images_by_file(index: PhantomIndex) -> dict[str, np.ndarray]:
    """Every image as the generator meant it, by the order of the table."""
    plans = [plan_patient(SETTINGS, i) for i in range(SETTINGS.num_patients)]
    wanted = [(plan, n) for plan in plans for n in range(plan.num_images)]
    return {
        row["file"]: render_phantom(plan.patient_seed, plan.label, SETTINGS.image_size, n)
        for row, (plan, n) in zip(rows_of(index), wanted, strict=True)
    }


def test_the_table_lists_every_file_once_with_one_label_a_patient(cohort: PhantomIndex) -> None:
    rows = rows_of(cohort)
    files = {p.relative_to(cohort.folder).as_posix() for p in cohort.folder.glob("*/**/*") if p.is_file()}
    assert files == {row["file"] for row in rows}
    assert len(rows) == len(files) == cohort.num_images == sum(cohort.class_counts.values())
    assert len({row["patient_id"] for row in rows}) == cohort.num_patients == 24
    assert len({(row["patient_id"], row["label"], row["sex"], row["age"]) for row in rows}) == 24
    assert cohort.num_nifti > 0
    assert cohort.num_dicom + cohort.num_nifti == cohort.num_images


def test_dicom_files_hold_the_image_whatever_their_class_sense_and_syntax(cohort: PhantomIndex) -> None:
    wanted = images_by_file(cohort)
    seen: dict[str, set[str]] = {"sense": set(), "class": set(), "syntax": set()}
    for row in rows_of(cohort):
        if not row["file"].startswith("dicom/"):
            continue
        dataset = pydicom.dcmread(cohort.folder / row["file"])
        np.testing.assert_array_equal(dense_is_bright(dataset), wanted[row["file"]])
        assert (dataset.PatientID, dataset.PatientSex) == (row["patient_id"], row["sex"])
        assert int(dataset.PatientAge[:3]) == int(row["age"])
        assert (dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit) == (16, 12, 11)
        # The field of view of an adult chest, in mm.
        assert 280 < float(dataset.ImagerPixelSpacing[1]) * dataset.Columns < 520
        born, taken = str(dataset.PatientBirthDate), str(dataset.StudyDate)
        assert int(taken[:4]) - int(born[:4]) - (taken[4:] < born[4:]) == int(row["age"])
        seen["sense"].add(dataset.PhotometricInterpretation)
        seen["class"].add(dataset.SOPClassUID.name)
        seen["syntax"].add(dataset.file_meta.TransferSyntaxUID.name)
    assert seen == {
        "sense": {"MONOCHROME1", "MONOCHROME2"},
        "class": {
            "Computed Radiography Image Storage",
            "Digital X-Ray Image Storage - For Presentation",
        },
        "syntax": {"Explicit VR Little Endian", "RLE Lossless"},
    }


def test_nifti_files_give_the_same_upright_image_in_canonical_orientation(cohort: PhantomIndex) -> None:
    wanted = images_by_file(cohort)
    stored = set()
    for row in rows_of(cohort):
        name = row["file"]
        if not name.startswith("nifti/"):
            continue
        image = nib.load(cohort.folder / name)
        stored.add("".join(nib.aff2axcodes(image.affine)))
        assert image.header["descrip"].item().decode().endswith(row["patient_id"])
        data = np.asarray(nib.as_closest_canonical(image).dataobj)
        assert data.shape[1] == 1
        # Canonical axis 0 runs to the patient's right, axis 2 to the head.
        np.testing.assert_array_equal(data[::-1, 0, ::-1].T, wanted[name])
    assert stored == {"RAS", "LAS"}


def test_images_are_upright_with_the_heart_on_the_right_of_the_image() -> None:
    images = [render_phantom(seed, "cardiomegaly", 64).astype(float) for seed in range(12)]
    right, left, air, belly = [], [], [], []
    for image in images:
        height, width = image.shape
        band = image[height // 2 : 7 * height // 10]
        right.append(band[:, width // 5 : 2 * width // 5].mean())
        left.append(band[:, 3 * width // 5 : 4 * width // 5].mean())
        air.append(image[0, [0, -1]].mean())
        belly.append(image[-3:, width // 4 : 3 * width // 4].mean())
    assert np.mean(left) > np.mean(right) + 200
    assert np.mean(belly) > np.mean(air) + 1000


def test_every_dicom_file_is_read_without_a_warning(cohort: PhantomIndex) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in sorted(cohort.folder.glob("dicom/**/*.dcm")):
            keywords = [element.keyword for element in pydicom.dcmread(path).iterall()]
            assert len(keywords) > 60


def texts(dataset: pydicom.Dataset) -> list[tuple[str, str]]:
    found = []
    for element in dataset.iterall():
        if element.VR in {
            "PN",
            "LO",
            "LT",
            "SH",
            "ST",
            "UT",
            "UI",
            "DA",
            "TM",
            "DT",
            "AS",
            "CS",
            "IS",
            "DS",
            "UN",
        }:
            value = element.value
            text = value.decode() if isinstance(value, bytes) else str(value)
            found.append((element.keyword or f"private {element.tag}", text))
    return found


def test_every_identifying_header_value_is_in_the_list_of_planted_values(cohort: PhantomIndex) -> None:
    planted = planted_values(cohort.folder)
    known = set(planted)
    for path in sorted(cohort.folder.glob("dicom/**/*.dcm")):
        for keyword, text in texts(pydicom.dcmread(path)):
            if keyword in HARMLESS or "PHANTOM EXPORT" in text:
                continue
            assert text in known or any(value in text for value in planted), keyword


def test_every_planted_value_is_in_a_file_or_in_its_name(cohort: PhantomIndex) -> None:
    names = "\n".join(row["file"] for row in rows_of(cohort)).encode()
    content = b"\n".join(path.read_bytes() for path in sorted(cohort.folder.glob("dicom/**/*.dcm")))
    content += b"\n".join(gzip.decompress(p.read_bytes()) for p in cohort.folder.glob("nifti/*.nii.gz"))
    planted = planted_values(cohort.folder)
    assert len(planted) > 300
    missing = [value for value in planted if value.encode() not in content and value.encode() not in names]
    assert missing == []
    # Some names are beyond ASCII, and none of the values is empty or a common number.
    assert any(not value.isascii() for value in planted)
    assert min(len(value) for value in planted if value.isascii()) >= 7


def test_the_label_stands_in_the_table_alone(cohort: PhantomIndex) -> None:
    for row in rows_of(cohort):
        data = (cohort.folder / row["file"]).read_bytes()
        if row["file"].endswith(".gz"):
            data = gzip.decompress(data)
        assert row["label"].encode() not in data.lower()
        assert row["label"] not in row["file"].lower()


def test_a_finished_folder_is_reused_and_left_alone(cohort: PhantomIndex) -> None:
    before = {path: path.stat().st_mtime_ns for path in cohort.folder.rglob("*")}
    again = write_phantom_cohort(cohort.folder, SETTINGS)
    assert again.reused
    assert again.model_copy(update={"reused": False}) == cohort
    assert {path: path.stat().st_mtime_ns for path in cohort.folder.rglob("*")} == before


def test_an_interrupted_cohort_goes_on_and_ends_in_the_same_bytes(
    cohort: PhantomIndex, tmp_path: Path
) -> None:
    folder = tmp_path / "cohort"
    for after in (3, 11):
        with pytest.raises(KeyboardInterrupt):
            write_phantom_cohort(folder, SETTINGS, Stop(after))
        assert not (folder / phantom_writer.LABELS).exists()
    # What a kill in the middle of a write leaves behind.
    (folder / ".partial" / "scan").write_bytes(b"half")
    assert not write_phantom_cohort(folder, SETTINGS).reused
    assert tree(folder) == tree(cohort.folder)


def test_processes_that_write_the_same_cohort_at_once_all_end_with_it(
    cohort: PhantomIndex, tmp_path: Path
) -> None:
    folder = tmp_path / "cohort"
    with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as pool:
        made = list(pool.map(write_phantom_cohort, [folder] * 3, [SETTINGS] * 3))
    assert {index.num_images for index in made} == {cohort.num_images}
    assert tree(folder) == tree(cohort.folder)


def test_a_folder_of_other_settings_or_of_other_files_is_refused(
    cohort: PhantomIndex, tmp_path: Path
) -> None:
    with pytest.raises(OutputExistsError, match="other settings"):
        write_phantom_cohort(cohort.folder, SETTINGS.model_copy(update={"seed": 5}))
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="not empty"):
        write_phantom_cohort(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_planted_values_need_a_phantom_cohort(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="phantom cohort"):
        planted_values(tmp_path)
