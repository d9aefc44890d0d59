"""Small valid files of every format that is read, made here or found inside pydicom and the real data."""

from __future__ import annotations

import functools
import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from tests.pipeline.sources.dicom.dicoms import colour, header, lut, written

LARGEST_SEED = 400_000
"""Larger files are left out: damage to their pixels would take most of the time."""

_PIXELS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10", b"1.2.840.10008.1.2.1.99")
_DATA = Path(os.environ.get("PHOSPHOR_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))


def _drawn(height: int, width: int, top: int, seed: int = 5) -> np.ndarray:
    """Return a smooth picture with some noise, (height, width), from 0 to `top`."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    wave = 0.5 + 0.4 * np.sin(rows / 7) * np.cos(columns / 5) + 0.1 * rng.random((height, width))
    return np.asarray(np.clip(wave, 0, 1) * top)


def _wide(bits: int = 12) -> np.ndarray:
    return _drawn(48, 40, (1 << bits) - 1).astype(np.uint16)


def _byte() -> np.ndarray:
    return _drawn(48, 40, 255).astype(np.uint8)


def _rgb() -> np.ndarray:
    return np.repeat(_byte()[..., None], 3, axis=2)


def _syntax(made: Dataset, uid: str, photometric: str = "") -> Dataset:
    made.file_meta.TransferSyntaxUID = uid
    if photometric:
        made.PhotometricInterpretation = photometric
    return made


def _compressed(made: Dataset, uid: str) -> Dataset:
    made.compress(uid)
    return made


def _jpeg_inside(picture: np.ndarray, photometric: str = "MONOCHROME2", *, split: bool = False) -> Dataset:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG")
    made = header(_byte(), BitsStored=8, HighBit=7) if picture.ndim == 2 else colour(picture)
    pieces = 3 if split else 1
    made.PixelData = encapsulate([buffer.getvalue()], fragments_per_frame=pieces)
    made["PixelData"].VR = "OB"
    return _syntax(made, JPEGBaseline8Bit, photometric)


def _palette() -> Dataset:
    changes: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR", "BitsStored": 8, "HighBit": 7}
    for name in ("Red", "Green", "Blue"):
        changes[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        changes[f"{name}PaletteColorLookupTableData"] = (np.arange(256, dtype="<u2") * 257).tobytes()
    return header(_byte(), **changes)


def _framed() -> Dataset:
    frames = np.stack([_wide(), _wide()[::-1], _wide()[:, ::-1]])
    return header(frames)


@functools.cache
def dicom_seeds() -> dict[str, bytes]:
    """Return name -> file of the DICOM files made here."""
    curve = np.linspace(0, 65_535, 4096)
    every = header(
        _wide(),
        VOILUTSequence=lut(0, curve),
        ModalityLUTSequence=lut(0, curve / 16, 12),
        PresentationLUTSequence=lut(0, curve),
    )
    every.ShutterShape, every.CenterOfCircularShutter, every.RadiusOfCircularShutter = (
        "CIRCULAR",
        [24, 20],
        18,
    )
    every.PixelPaddingValue = 0
    signed = header(_wide().astype(np.int16) - 1000, RescaleSlope=2, RescaleIntercept=-1024)
    signed.WindowCenter, signed.WindowWidth, signed.PixelSpacing = [40, 300], [400, 1500], [0.2, 0.2]
    made: dict[str, Callable[[], Dataset]] = {
        "explicit": lambda: header(_wide()),
        "implicit": lambda: _syntax(header(_wide()), ImplicitVRLittleEndian, "MONOCHROME1"),
        "deflated": lambda: _syntax(header(_wide()), DeflatedExplicitVRLittleEndian),
        "signed": lambda: signed,
        "tables": lambda: every,
        "bytes": lambda: header(_byte(), BitsStored=8, HighBit=7, PixelAspectRatio=[2, 1]),
        "framed": _framed,
        "colour": lambda: colour(_rgb()),
        "ybr": lambda: colour(np.dstack([_byte(), np.full((48, 40, 2), 128, np.uint8)]), "YBR_FULL"),
        "palette": _palette,
        "rle": lambda: _compressed(header(_wide()), RLELossless),
        "rle colour": lambda: _compressed(colour(_rgb()), RLELossless),
        "rle framed": lambda: _compressed(_framed(), RLELossless),
        "jpeg 2000": lambda: _compressed(header(_wide()), JPEG2000Lossless),
        "jpeg 2000 framed": lambda: _compressed(_framed(), JPEG2000Lossless),
        "jpeg": lambda: _jpeg_inside(_byte()),
        "jpeg split": lambda: _jpeg_inside(_byte(), split=True),
        "jpeg colour": lambda: _jpeg_inside(_rgb(), "YBR_FULL_422"),
    }  # fmt: skip
    found = {name: written(make()) for name, make in made.items()}
    big = header(_wide(), PixelData=_wide().astype(">u2").tobytes())
    buffer = io.BytesIO()
    _syntax(big, ExplicitVRBigEndian).save_as(buffer, enforce_file_format=True)
    return found | {"big-endian": buffer.getvalue()}


@functools.cache
def found_seeds() -> dict[str, bytes]:
    """Return the small files inside pydicom: JPEG-LS, JPEG lossless and 12-bit, subsampled colour, ..."""
    return _small(Path(pydicom.__file__).parent / "data" / "test_files", 100_000)


@functools.cache
def real_seeds() -> dict[str, bytes]:
    """Return the small real files of each transfer syntax; empty where they are missing."""
    return _small(_DATA / "dicom_transfer_syntaxes", LARGEST_SEED)


def _small(folder: Path, limit: int) -> dict[str, bytes]:
    small = [path for path in sorted(folder.glob("*.dcm")) if path.stat().st_size <= limit]
    found = {path.name: path.read_bytes() for path in small}
    return {name: data for name, data in found.items() if any(tag in data for tag in _PIXELS)}


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@functools.cache
def png_seeds() -> dict[str, bytes]:
    grey, wide = Image.fromarray(_byte()), Image.fromarray(_wide(16))
    return {
        "grey": _saved(grey, "PNG"),
        "grey 16": _saved(wide, "PNG"),
        "bit": _saved(grey.convert("1"), "PNG"),
        "palette": _saved(grey.convert("P"), "PNG"),
        "grey alpha": _saved(grey.convert("LA"), "PNG"),
        "rgb": _saved(Image.fromarray(_rgb()), "PNG"),
        "rgba": _saved(Image.fromarray(_rgb()).convert("RGBA"), "PNG"),
    }


@functools.cache
def jpeg_seeds() -> dict[str, bytes]:
    grey, rgb = Image.fromarray(_byte()), Image.fromarray(_rgb())
    return {
        "grey": _saved(grey, "JPEG"),
        "colour": _saved(rgb, "JPEG"),
        "progressive": _saved(rgb, "JPEG", progressive=True),
        "progressive grey": _saved(grey, "JPEG", progressive=True, quality=90),
    }


@functools.cache
def tiff_seeds() -> dict[str, bytes]:
    grey, wide = Image.fromarray(_byte()), Image.fromarray(_wide(16))
    packed = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    return {
        "raw": _saved(grey, "TIFF"),
        "raw 16": _saved(wide, "TIFF"),
        "real": _saved(Image.fromarray(_wide().astype(np.float32)), "TIFF"),
        "whole 32": _saved(Image.fromarray(_wide().astype(np.int32)), "TIFF"),
        "group4": _saved(grey.convert("1"), "TIFF", compression="group4"),
        "rgb": _saved(Image.fromarray(_rgb()), "TIFF", compression="tiff_lzw"),
        "two pages": _saved(grey, "TIFF", save_all=True, append_images=[grey]),
        **{name: _saved(grey, "TIFF", compression=name) for name in packed},
    }


@functools.cache
def nifti_seeds() -> dict[str, bytes]:
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    volume = np.stack([_drawn(20, 24, 900, seed) for seed in range(6)]).transpose(1, 0, 2)
    plain = nibabel.Nifti1Image(volume.astype(np.int16), affine).to_bytes()
    scaled = nibabel.Nifti1Image(volume.astype(np.float32), affine)
    scaled.header.set_slope_inter(0.5, -10)
    big = nibabel.Nifti1Image(volume.astype(">i2"), affine, nibabel.Nifti1Header(endianness=">"))
    second = nibabel.Nifti2Image(volume.astype(np.uint8), affine).to_bytes()
    flat = nibabel.Nifti1Image(_drawn(40, 48, 255)[:, None, :].astype(np.uint8), affine).to_bytes()
    return {
        "volume": plain,
        "volume packed": gzip.compress(plain, mtime=0),
        "scaled": scaled.to_bytes(),
        "big-endian": big.to_bytes(),
        "version 2": second,
        "version 2 packed": gzip.compress(second, mtime=0),
        "flat": flat,
        "flat packed": gzip.compress(flat, mtime=0),
    }
