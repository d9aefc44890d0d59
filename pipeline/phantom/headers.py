"""The DICOM object and the NIfTI image of one phantom, with headers full of invented identifying values."""

from __future__ import annotations

import gzip
import io
from typing import TYPE_CHECKING

import numpy as np

from pipeline.phantom.identity import ImageIdentity, PatientIdentity
from pipeline.phantom.projection import STORED_MAX
from pipeline.phantom.render import View
from pipeline.phantom.settings import PatientPlan

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileMetaDataset

CR_STORAGE = "1.2.840.10008.5.1.4.1.1.1"
DX_STORAGE = "1.2.840.10008.5.1.4.1.1.1.1"
_EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
_RLE_LOSSLESS = "1.2.840.10008.1.2.5"
_STREAM_ENCODING = 51
_PRIVATE_GROUP, _PRIVATE_CREATOR = 0x0019, "PHANTOM EXPORT 1.0"
_MODELS = ("ThoraView 500", "ThoraView 900", "FlatPanel C2")


def dicom_bytes(
    plan: PatientPlan,
    patient: PatientIdentity,
    image: ImageIdentity,
    *,
    number: int,
    pixels: np.ndarray,
    view: View,
    person: tuple[str, int],
) -> bytes:
    """One DICOM file: CR or DX For Presentation, MONOCHROME1 or 2, 12 bits stored in 16, native or RLE.

    Args:
        plan: the patient's plan.
        patient: the invented identity.
        image: the invented identity of the image.
        number: 0-based number of the image.
        pixels: (H, W) uint16 in [0, 4095], dense is bright.
        view: how the image was taken (pixel pitch, exposure).
        person: sex and age in years.

    Returns:
        The bytes of the file, preamble included.
    """
    from pydicom import dcmwrite
    from pydicom.uid import UID

    rng = np.random.default_rng([plan.patient_seed, _STREAM_ENCODING, number])
    digital = bool(rng.random() < 0.6)
    inverted = bool(rng.random() < 0.35)
    packed = bool(rng.random() < 0.12)
    dataset = _header(patient, image, number, person)
    dataset.SOPClassUID = DX_STORAGE if digital else CR_STORAGE
    dataset.Modality = "DX" if digital else "CR"
    dataset.ViewPosition = "PA"
    dataset.ManufacturerModelName = str(rng.choice(_MODELS))
    _add_image(dataset, pixels, view, inverted, rng)
    if digital:
        _add_digital(dataset, inverted)
    dataset.file_meta = _file_meta(dataset)
    if packed:
        # A given generated UID: with compression pydicom would otherwise invent a random one.
        dataset.compress(UID(_RLE_LOSSLESS), generate_instance_uid=False)
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _file_meta(dataset: Dataset) -> FileMetaDataset:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = UID(_EXPLICIT_LITTLE)
    # Fixed, so that the bytes do not change with the version of the writing library.
    meta.ImplementationClassUID = UID("2.25.80302813137786398554742050926734630921")
    meta.ImplementationVersionName = "PHOSPHOR_PHANTOM"
    return meta


def _header(patient: PatientIdentity, image: ImageIdentity, number: int, person: tuple[str, int]) -> Dataset:
    from pydicom.dataset import Dataset

    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPInstanceUID = image.sop_uid
    dataset.StudyInstanceUID = image.study_uid
    dataset.SeriesInstanceUID = image.series_uid
    dataset.FrameOfReferenceUID = image.frame_uid
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = image.study_date
    dataset.StudyTime = image.study_time
    dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = image.content_time
    dataset.AcquisitionDateTime = image.study_date + image.content_time
    dataset.AccessionNumber = image.accession
    dataset.StudyID = image.request_id
    dataset.StudyDescription = image.study_description
    dataset.SeriesDescription = "Thorax PA"
    dataset.SeriesNumber, dataset.InstanceNumber = number + 1, 1
    dataset.PatientName, dataset.PatientID = patient.name, patient.patient_id
    dataset.IssuerOfPatientID = patient.institution
    dataset.OtherPatientIDs = patient.other_id
    dataset.PatientBirthDate = patient.birth_date
    dataset.PatientBirthName = patient.birth_name
    dataset.PatientMotherBirthName = patient.mother
    dataset.PatientAddress = patient.address
    dataset.PatientTelephoneNumbers = patient.phone
    dataset.PatientComments = patient.comments
    dataset.PatientSex, dataset.PatientAge = person[0], f"{person[1]:03d}Y"
    dataset.ReferringPhysicianName = image.referring
    dataset.PerformingPhysicianName = image.performing
    dataset.OperatorsName = image.operator
    dataset.InstitutionName = patient.institution
    dataset.InstitutionAddress = patient.institution_address
    dataset.StationName = patient.station
    dataset.DeviceSerialNumber = image.device_serial
    dataset.Manufacturer = "Phantom Imaging Works"
    dataset.BodyPartExamined = "CHEST"
    dataset.RequestAttributesSequence = [_request(patient, image)]
    dataset.OriginalAttributesSequence = [_original(patient, image)]
    block = dataset.private_block(_PRIVATE_GROUP, _PRIVATE_CREATOR, create=True)
    block.add_new(0x01, "LO", patient.patient_id)
    block.add_new(0x02, "LT", image.private_note)
    block.add_new(0x03, "PN", patient.name)
    # Bytes of unknown meaning, as vendors write them.
    block.add_new(0x04, "UN", _even(f"{patient.folded_name}|{patient.phone}".encode()))
    return dataset


def _request(patient: PatientIdentity, image: ImageIdentity) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.RequestedProcedureID = image.request_id
    item.ScheduledProcedureStepDescription = image.study_description
    item.AccessionNumber = image.accession
    item.RequestingPhysician = image.referring
    item.ReasonForTheRequestedProcedure = patient.comments
    return item


def _original(patient: PatientIdentity, image: ImageIdentity) -> Dataset:
    from pydicom.dataset import Dataset

    before = Dataset()
    before.PatientID = image.earlier_id
    before.PatientName = patient.birth_name
    before.PatientBirthDate = patient.birth_date
    item = Dataset()
    item.ModifiedAttributesSequence = [before]
    item.AttributeModificationDateTime = image.study_date + image.content_time
    item.ModifyingSystem = patient.station
    item.SourceOfPreviousValues = patient.institution
    item.ReasonForTheAttributeModification = "CORRECT"
    return item


def _even(data: bytes) -> bytes:
    return data + b" " * (len(data) % 2)


def _add_image(
    dataset: Dataset, pixels: np.ndarray, view: View, inverted: bool, rng: np.random.Generator
) -> None:
    stored = (STORED_MAX - pixels if inverted else pixels).astype("<u2")
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.Rows, dataset.Columns = (int(n) for n in pixels.shape)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    pitch = f"{view.spacing:.5f}"
    dataset.ImagerPixelSpacing = [pitch, pitch]
    centre = int(rng.integers(2000, 2100))
    dataset.WindowCenter = STORED_MAX - centre if inverted else centre
    dataset.WindowWidth = int(rng.integers(3700, 4097))
    dataset.KVP = "120"
    dataset.DistanceSourceToDetector = f"{view.focus:.0f}"
    dataset.Exposure = max(1, round(2 * view.exposure))
    dataset.BurnedInAnnotation = "NO"
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.PatientOrientation = ["L", "F"]
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"


def _add_digital(dataset: Dataset, inverted: bool) -> None:
    """What DX asks for beyond CR (PS3.3 C.8.11): the relation of pixel values to X-ray intensity."""
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.ImageLaterality = "U"
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = 1 if inverted else -1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    dataset.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    dataset.LossyImageCompression = "00"


def nifti_bytes(
    plan: PatientPlan, patient: PatientIdentity, number: int, pixels: np.ndarray, view: View
) -> bytes:
    """One gzipped NIfTI-1 file: a coronal image of one slice, with an identifying description.

    In canonical (RAS+) orientation the array has shape (W, 1, H): axis 0 runs to the patient's right and
    axis 2 to the head, as nibabel's RAS+ means "towards". Row r and column c of the upright radiograph, seen
    as usual with the patient's right at column 0, are `data[W - 1 - c, 0, H - 1 - r]`. A third of the files
    are stored mirrored (LAS+), with the affine that says so: the same image for whoever reads the affine.

    Args:
        plan: the patient's plan.
        patient: the invented identity.
        number: 0-based number of the image.
        pixels: (H, W) uint16 in [0, 4095], dense is bright.
        view: gives the pixel pitch.

    Returns:
        The bytes of the .nii.gz file; the same input gives the same bytes.
    """
    import nibabel as nib

    rng = np.random.default_rng([plan.patient_seed, _STREAM_ENCODING, number])
    data = np.ascontiguousarray(pixels[::-1, ::-1].T[:, None, :]).astype(np.int16)
    affine = np.diag([view.spacing, 1.0, view.spacing, 1.0])
    if rng.random() < 1 / 3:
        data = data[::-1]
        affine[0, 0], affine[0, 3] = -view.spacing, (pixels.shape[1] - 1) * view.spacing
    nifti = nib.Nifti1Image(data, affine)
    nifti.header.set_xyzt_units("mm")
    description = f"{patient.folded_name} {patient.birth_date} {patient.patient_id}"
    nifti.header["descrip"] = description.encode("ascii")  # at most 80 bytes; names and ids keep under 60
    return gzip.compress(nifti.to_bytes(), compresslevel=1, mtime=0)
