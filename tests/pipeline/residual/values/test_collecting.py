"""Every identifying value of a source is collected by itself; what says nothing of a person is left out."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pydicom
import pytest
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pipeline.errors import DataError, ScanRefusedError
from pipeline.manifest import Manifest
from pipeline.phantom import PhantomSettings, planted_values, write_phantom_cohort
from pipeline.residual.allowlist import Harmless
from pipeline.residual.values.collecting import collect_values
from pipeline.residual.values.dates import date_spellings, find_date
from pipeline.residual.values.dicom_values import dicom_pieces
from pipeline.residual.values.file_values import image_pieces, name_of_file, nifti_pieces, table_pieces
from pipeline.residual.values.source_values import (
    DATE,
    FILE_NAME,
    IDENTIFIER,
    NAME,
    TEXT,
    UID,
    Piece,
    SourceValues,
)
from tests.pipeline.residual import sources
from tests.windows import unless_open


def collected(pieces: list[Piece], harmless: tuple[str, ...] = ()) -> tuple[dict[str, str], dict[str, int]]:
    """Return (value -> attribute, reason -> texts left out)."""
    with SourceValues(Harmless(harmless)) as values:
        values.add(pieces)
        found = [value for batch in values.batches() for value in batch]
        return sources.texts_of(found), dict(values.left_out)


@pytest.mark.parametrize("value", sources.PLANTED)
def test_each_kind_of_dicom_element_gives_its_values(value: str) -> None:
    found, _ = collected(list(dicom_pieces(sources.dicom_bytes())))
    assert value in found
    assert found[value].startswith(sources.PLANTED[value])


def test_terms_ages_numbers_registered_uids_and_the_writing_software_are_left_out_and_told() -> None:
    found, left_out = collected(list(dicom_pieces(sources.dicom_bytes())))
    assert set(left_out) >= {
        "coded term (CS)",
        "number or age (IS, DS, AS)",
        "registered UID",
        "software that wrote the file",
        "character set",
    }
    unwanted = {"CHEST", "DX", "073Y", "120.5", sources.SOP_CLASS, "ACMEWRITER_1", "1.2.3.4.5.6.7.8.9"}
    assert unwanted.isdisjoint(found)


def test_latin_1_bytes_are_collected_as_they_stand_whatever_the_character_set_says() -> None:
    data = sources.dicom_bytes().replace("Grünwaldski^Ännemarie".encode(), b"Gr\xfcnwaldski^\xc4nnemarie  ")
    found, _ = collected(list(dicom_pieces(data)))
    assert "Grünwaldski^Ännemarie" in found


@pytest.mark.parametrize("data", [b"", b"\0" * 400, b"<html>not found</html>" * 20])
def test_what_is_no_dicom_is_refused_with_a_short_reason(data: bytes) -> None:
    with pytest.raises(ScanRefusedError, match=r"^(not a|corrupt) DICOM file"):
        list(dicom_pieces(data))


def test_nifti_headers_and_extensions_give_their_texts() -> None:
    found, _ = collected(list(nifti_pieces(sources.nifti_bytes())))
    assert set(found) >= {
        "Grunwaldski 19480317 MRN-0048817", "Grunwaldski", "19480317", "MRN-0048817", "quendolin-db-781",
        "quendolin-aux-782.txt", "quend-int-783", "quendolin-ext-784",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_images_give_text_chunks_comments_and_exif(kind: str) -> None:
    found, _ = collected(list(image_pieces(sources.image_bytes(kind))))
    assert {"quendolin-text-792", "quendolin-artist-791", "20210904"} <= set(found)


def test_of_a_table_without_a_manifest_the_columns_of_ids_names_and_dates_are_taken() -> None:
    table = b"file,patient_id,birth date,label\na-771.png,subject-772,1948-03-17,effusion-like\n"
    found, _ = collected(list(table_pieces(table)))
    assert set(found) == {"a-771.png", "subject-772", "1948-03-17", "19480317"}
    # A header may be missing, and would then be a patient's row: attributes never quote it.
    assert set(found.values()) == {"table column 1", "table column 2", "table column 3"}


def test_file_names_give_path_name_stem_folders_parts_and_dates() -> None:
    found, _ = collected(list(name_of_file("Meierhuber_Q/2021-09-04/IMG_Meierhuber_77123.dcm")))
    assert set(found) >= {
        "Meierhuber_Q/2021-09-04/IMG_Meierhuber_77123.dcm", "IMG_Meierhuber_77123.dcm",
        "IMG_Meierhuber_77123", "Meierhuber_Q", "Meierhuber", "Meierhuber_77123", "20210904",
    }  # fmt: skip
    odd = os.fsdecode(b"M\xfcller\xff77.dcm")
    assert "Müllerÿ77.dcm" in collected(list(name_of_file(odd)))[0]


def test_texts_of_the_manifest_and_terms_of_the_standard_are_left_out() -> None:
    words = ["Chest PA", "CHEST", "images", "Fibrosis", "CC BY 4.0 of Quendolin", "Jane Doe Collection"]
    pieces = [Piece("SeriesDescription", TEXT, word) for word in words]
    manifest_says = ("fibrosis", "CC BY 4.0 of Quendolin")
    found, left_out = collected(pieces, manifest_says)
    assert set(found) == {"Jane Doe Collection"}
    assert left_out == {"harmless words": 5}


def test_the_names_of_dicom_attributes_are_terms_and_no_names() -> None:
    pieces = [Piece("private (0019,1060)", TEXT, text) for text in ("NumberofFrames", "Number of Frames")]
    assert collected(pieces) == ({}, {"harmless words": 2})
    person = Piece("PatientName", NAME, "NumberofFrames")
    assert collected([person])[0] == {"NumberofFrames": "PatientName"}


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_file_without_preamble_is_read_in_either_byte_order(syntax: pydicom.uid.UID) -> None:
    made = pydicom.dcmread(io.BytesIO(sources.dicom_bytes()))
    # No file meta information either: the first element is one of group 8.
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = syntax != ExplicitVRBigEndian, syntax.is_implicit_VR
    write_dataset(buffer, made)
    found, _ = collected(list(dicom_pieces(buffer.getvalue())))
    assert {"MRN-0048817", "Sankt Quendolin Klinikum"} <= set(found)


def test_no_name_is_left_out_for_a_word_of_the_manifest_of_the_standard_or_of_the_program() -> None:
    says = ("Fisher R, Jordan M, Baker C, Nelson P", "nelson")
    names = ["Fisher", "Jordan", "Baker", "Nelson", "Hand", "Foot", "Child", "Price", "Best"]
    pieces = [Piece("PatientName", NAME, name) for name in names]
    pieces += [Piece("file name", FILE_NAME, name) for name in names[:4]]
    pieces += [Piece("table column 1", IDENTIFIER, name) for name in names[:4]]
    found, left_out = collected(pieces, says)
    assert set(found) == set(names)
    assert left_out == {}


def test_words_of_the_manifest_do_not_excuse_ids_and_dates() -> None:
    pieces = [Piece("PatientID", IDENTIFIER, "20217741"), Piece("StudyDate", DATE, "20210904")]
    found, _ = collected(pieces, ("made on 20210904 from 20217741",))
    assert set(found) == {"20217741", "20210904"}


def test_short_and_common_texts_are_left_out_by_reason() -> None:
    pieces = [
        Piece("PatientName", NAME, "Li"),
        Piece("PatientID", IDENTIFIER, "12345"),
        Piece("StudyDescription", TEXT, "1234567"),
        Piece("AccessionNumber", IDENTIFIER, "00000000"),
        Piece("PatientName", NAME, "山沢"),
        Piece("PatientID", IDENTIFIER, "123456"),
    ]
    found, left_out = collected(pieces)
    assert set(found) == {"山沢", "123456"}
    assert left_out == {"too short": 1, "short number": 2, "placeholder": 1}


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("20210904", "20210904"), ("2021-09-04", "20210904"), ("2021.09.04", "20210904"),
        ("2021:09:04 10:15:32", "20210904"), ("20210904101532.5", "20210904"),
        ("2021-09-04T10:15", "20210904"),
        ("20211304", ""), ("19000101", ""), ("00010101", ""), ("2021090", ""), ("202109041", ""),
    ],
)  # fmt: skip
def test_dates_are_recognised_and_placeholders_are_not(text: str, day: str) -> None:
    assert find_date(text) == day


def test_a_date_is_spelled_in_the_usual_ways() -> None:
    assert {"20210904", "2021-09-04", "04.09.2021", "09/04/2021", "04/09/2021", "2021:09:04"} <= set(
        date_spellings("20210904")
    )
    assert date_spellings("someday") == ("someday",)


def test_every_planted_value_of_a_phantom_cohort_is_collected(tmp_path: Path) -> None:
    write_phantom_cohort(tmp_path, PhantomSettings(num_patients=40, image_size=32, nifti_share=0.2))
    planted = planted_values(tmp_path)
    with collect_values(tmp_path) as values:
        known = {text for batch in values.batches() for value in batch for text in value.texts}
        assert values.facts.files > 40
    assert [value for value in planted if value not in known] == []
    assert len(planted) > 1000


def manifest_of(path: Path) -> Manifest:
    body = {
        "name": "little",
        "sources": [
            {"kind": "dicom", "path": str(path), "label": {"folder": 0}, "patient": {"tag": "PatientID"}}
        ],
    }
    return Manifest.model_validate(body).located(path.parent)


def test_folder_zip_and_tar_give_the_same_values_alone_and_through_a_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "scans" / "effusion"
    folder.mkdir(parents=True)
    (folder / "Grunwaldski_1.dcm").write_bytes(sources.dicom_bytes())
    with zipfile.ZipFile(tmp_path / "scans.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "Grunwaldski_1.dcm", "effusion/Grunwaldski_1.dcm")
    with tarfile.open(tmp_path / "scans.tar.gz", "w:gz") as tar:
        tar.add(folder / "Grunwaldski_1.dcm", "effusion/Grunwaldski_1.dcm")
    found = []
    for name in ("scans", "scans.zip", "scans.tar.gz"):
        for source in (tmp_path / name, manifest_of(tmp_path / name)):
            with collect_values(source) as values:
                texts = {value.text for batch in values.batches() for value in batch}
            found.append(texts - {str(tmp_path / name), "effusion"})
    assert all(texts == found[0] for texts in found)
    assert set(sources.PLANTED) <= found[0]


def test_an_archive_is_closed_before_its_unpacked_copy_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows would leave the copy, which holds the patients' scans, in the cache."""
    monkeypatch.setenv("PHOSPHOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "unlink", unless_open("unlink", os.unlink))
    scan = tmp_path / "effusion.dcm"
    scan.write_bytes(sources.dicom_bytes())
    with tarfile.open(tmp_path / "scans.tar.gz", "w:gz") as tar:
        tar.add(scan, "effusion/1.dcm")
    for source in (tmp_path / "scans.tar.gz", manifest_of(tmp_path / "scans.tar.gz")):
        with collect_values(source) as values:
            assert values.facts.files == 1
        assert list((tmp_path / "cache" / "unpacked").iterdir()) == []


def test_the_class_folder_of_a_manifest_is_no_evidence(tmp_path: Path) -> None:
    (tmp_path / "scans" / "quendolitis").mkdir(parents=True)
    (tmp_path / "scans" / "quendolitis" / "a.dcm").write_bytes(sources.dicom_bytes())
    with collect_values(manifest_of(tmp_path / "scans")) as values:
        assert "quendolitis" not in {value.text for batch in values.batches() for value in batch}


def test_files_that_give_no_value_are_counted_by_reason(tmp_path: Path) -> None:
    sources.write_source(tmp_path)
    (tmp_path / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    (tmp_path / "letter.txt").write_text("Dear colleague")
    with collect_values(tmp_path) as values:
        assert values.facts.files == 6
        assert values.facts.not_read == {
            "not a DICOM file": 1,
            "neither DICOM, NIfTI, image nor table": 1,
        }


def test_a_source_without_any_value_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(DataError, match="no identifying value"):
        collect_values(tmp_path)


def test_values_come_back_in_batches_and_leave_nothing_on_the_disk(tmp_path: Path) -> None:
    with SourceValues(Harmless()) as values:
        values.add(Piece("SOPInstanceUID", UID, f"2.25.{10**30 + n % 2500}") for n in range(5000))
        assert len(values) == 2500
        assert values.counts() == {"UID": 2500}
        batches = list(values.batches(1000))
        assert [len(batch) for batch in batches] == [1000, 1000, 500]
        assert len({value.text for batch in batches for value in batch}) == 2500
        assert values.pick([7])[0] == batches[0][6]
    assert list(tmp_path.iterdir()) == []
