"""DICOM, NIfTI and image files that hold one identifying value of each kind."""

from __future__ import annotations

import io
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image, PngImagePlugin
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from pipeline.residual.values.source_values import Value

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.1"
INSTANCE = "1.2.826.0.1.3680043.9.7133.11.42"
STUDY = "1.2.826.0.1.3680043.9.7133.11"

PLANTED = {
    "Grünwaldski^Ännemarie": "PatientName",
    "Grünwaldski": "PatientName",
    "Grunwaldski": "PatientName",
    "Ännemarie Grünwaldski": "PatientName",
    "MRN-0048817": "PatientID",
    "Sankt Quendolin Klinikum": "InstitutionName",
    "Quendolinweg 17": "InstitutionAddress",
    "QUENDXR3": "StationAETitle",
    "Acme Röntgenwerke": "Manufacturer",
    "19480317": "PatientBirthDate",
    "20210904": "AcquisitionDateTime",
    "101532.481516": "StudyTime",
    INSTANCE: "MediaStorageSOPInstanceUID",
    STUDY: "StudyInstanceUID",
    "nested-id-771": "PatientID",
    "deepest-id-772": "PatientID",
    "private-note-773": "private",
    "unknown-bytes-774": "private",
    "other-bytes-775": "private",
    "second line of the story 776": "PatientComments",
    "not-a-date-777": "StudyDate",
}


def dicom_bytes() -> bytes:
    """Return a DICOM file with nested sequences, private and unknown elements and a broken date."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID, ds.StudyInstanceUID = SOP_CLASS, INSTANCE, STUDY
    ds.PatientName, ds.PatientID = "Grünwaldski^Ännemarie", "MRN-0048817"
    ds.PatientBirthDate, ds.AcquisitionDateTime = "19480317", "20210904101532.481516"
    ds.StudyTime = "101532.481516"
    ds.InstitutionName, ds.InstitutionAddress = "Sankt Quendolin Klinikum", "Quendolinweg 17"
    ds.StationAETitle, ds.Manufacturer = "QUENDXR3", "Acme Röntgenwerke"
    ds.PatientComments = "first line of it\r\nsecond line of the story 776\r\n" + "x" * 300
    ds.Modality, ds.BodyPartExamined, ds.PatientAge, ds.KVP = "DX", "CHEST", "073Y", "120.5"
    deepest = Dataset()
    deepest.PatientID = "deepest-id-772"
    inner = Dataset()
    inner.PatientID = "nested-id-771"
    inner.ModifiedAttributesSequence = Sequence([deepest])
    ds.OriginalAttributesSequence = Sequence([inner])
    block = ds.private_block(0x0019, "QUENDOLIN PRIVATE", create=True)
    block.add_new(0x01, "LO", "private-note-773")
    block.add_new(0x02, "UN", b"\x01\x02unknown-bytes-774\x00\x03")
    block.add_new(0x03, "OB", b"\xff\xfe" + "other-bytes-775".encode("utf-16-le") + b"\x00\x00")
    ds.StudyDate = "20210904"
    ds.Rows = ds.Columns = 2
    ds.PixelData = b"\0" * 8
    ds["PixelData"].VR = "OW"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SOP_CLASS, INSTANCE
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID, meta.ImplementationVersionName = "1.2.3.4.5.6.7.8.9", "ACMEWRITER_1"
    ds.file_meta = meta
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    # A date whose text its VR forbids: of even length, as the standard wants it.
    return buffer.getvalue().replace(b"DA\x08\x0020210904", b"DA\x0e\x00not-a-date-777", 1)


def nifti_bytes() -> bytes:
    """Return a NIfTI file with texts in its header and in an extension."""
    image = nibabel.Nifti1Image(np.zeros((2, 1, 2), np.int16), np.eye(4))
    image.header["descrip"] = b"Grunwaldski 19480317 MRN-0048817"
    image.header["db_name"] = b"quendolin-db-781"
    image.header["aux_file"] = b"quendolin-aux-782.txt"
    image.header["intent_name"] = b"quend-int-783"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"quendolin-ext-784"))
    return bytes(image.to_bytes())


def image_bytes(kind: str) -> bytes:
    """Return a PNG, JPEG or TIFF file with identifying texts."""
    image = Image.fromarray(np.zeros((4, 4), np.uint8))
    exif = Image.Exif()
    exif[0x013B] = "quendolin-artist-791"
    exif[0x0132] = "2021:09:04 10:15:32"
    buffer = io.BytesIO()
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("Comment", "quendolin-text-792", zip=True)
        image.save(buffer, kind, pnginfo=info, exif=exif)
    elif kind == "JPEG":
        image.save(buffer, kind, comment=b"quendolin-text-792", exif=exif)
    else:
        image.save(buffer, kind, description="quendolin-text-792", exif=exif)
    return buffer.getvalue()


def write_source(folder: Path) -> Path:
    """Write a folder of scans with identifying contents and names."""
    (folder / "Grunwaldski_A").mkdir(parents=True)
    (folder / "Grunwaldski_A" / "chest_20210904_MRN-0048817.dcm").write_bytes(dicom_bytes())
    (folder / "scan785.nii").write_bytes(nifti_bytes())
    (folder / "quendolin786.png").write_bytes(image_bytes("PNG"))
    (folder / "list.csv").write_text("file,patient_id,age\nscan785.nii,subject-787,64\n", encoding="utf-8")
    return folder


def texts_of(values: list[Value]) -> dict[str, str]:
    """Return value -> attribute."""
    return {value.text: value.attribute for value in values}


def named_dicom(name: str, number: int, **more: str) -> bytes:
    """Return a small DICOM file of a patient, with more attributes by keyword."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = SOP_CLASS, f"{INSTANCE}.{number}"
    ds.PatientName, ds.PatientID, ds.Modality = name, f"qid-{number:06}", "DX"
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    ds.Rows = ds.Columns = 16
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 7, 0, 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelData = np.random.default_rng(number).integers(0, 256, (16, 16), dtype=np.uint8).tobytes()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SOP_CLASS, ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta = meta
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()
