"""Small DICOM files made in memory, and what the reader shows of them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from pipeline.sources.base import DicomOptions
from pipeline.sources.dicom.parse import parse
from pipeline.sources.dicom.source import displayed

RAMP = np.arange(24, dtype=np.uint16).reshape(4, 6) * 100
"""Values that leave room on both sides."""

EVERY = np.arange(4096, dtype=np.uint16).reshape(64, 64)
"""Every value of 12 bits."""


def header(pixels: np.ndarray = RAMP, **changes: Any) -> Dataset:
    """Return a CR image of 12 bits in 16, with attributes added or replaced."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = "2.25.1"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = Dataset()
    made.file_meta = meta
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.StudyInstanceUID, made.SeriesInstanceUID = "2.25.2", "2.25.3"
    made.PatientName, made.PatientID, made.PatientAge, made.PatientSex = "Doe^Jane", "MRN-7", "047Y", "F"
    made.Modality, made.ViewPosition = "CR", "PA"
    made.Rows, made.Columns = pixels.shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 8 * pixels.dtype.itemsize
    made.BitsAllocated, made.BitsStored = bits, min(bits, 12)
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        made.NumberOfFrames = len(pixels)
    made.PixelData = pixels.tobytes()
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def colour(pixels: np.ndarray, photometric: str = "RGB", **changes: Any) -> Dataset:
    """Return a secondary capture of (H, W, 3) samples."""
    height, width = pixels.shape[:2]
    bits = 8 * pixels.dtype.itemsize
    return header(
        np.zeros((height, width), dtype=pixels.dtype),
        **{
            "SamplesPerPixel": 3,
            "PhotometricInterpretation": photometric,
            "PlanarConfiguration": 0,
            "BitsStored": bits,
            "HighBit": bits - 1,
            "PixelData": pixels.tobytes(),
            **changes,
        },
    )


def lut(first: int, entries: np.ndarray, bits: int = 16, **changes: Any) -> Sequence:
    """Return a sequence with one lookup table."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) & 0xFFFF, first, bits])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    for name, value in changes.items():
        setattr(item, name, value)
    return Sequence([item])


def embedded_overlays(made: Dataset, *positions: int) -> Dataset:
    """Add overlays that lie in bits of the pixels' own words, as was allowed until 2004."""
    for number, position in enumerate(positions):
        group = 0x6000 + 2 * number
        values = {0x10: made.Rows, 0x11: made.Columns, 0x100: made.BitsAllocated, 0x102: position}
        for element, value in values.items():
            made.add_new((group, element), "US", value)
    return made


def written(made: Dataset) -> bytes:
    """Return the bytes of a file."""
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def shown(made: Dataset | bytes, **options: Any) -> npt.NDArray[np.float64]:
    """Return the first chosen frame on the scale from 0, the file's black, to 255, its white."""
    data = made if isinstance(made, bytes) else written(made)
    chosen = DicomOptions(**options)
    _, frame, _ = next(displayed(parse(data, "", headless=chosen.headless), chosen))
    scale = (frame.pixels.astype(np.float64) - frame.black) / (frame.white - frame.black)
    return np.asarray(255.0 * scale)
