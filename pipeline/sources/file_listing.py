"""Listing of the scans in folders of DICOM, NIfTI and image files."""

from __future__ import annotations

from pipeline.manifest import Manifest
from pipeline.manifest.kinds.dicom import DicomSource
from pipeline.manifest.kinds.images import ImageSource
from pipeline.manifest.kinds.nifti import NiftiSource
from pipeline.sources.base import Asked, ImageOptions, NiftiOptions
from pipeline.sources.folders import Listing, list_folder
from pipeline.sources.read_rules import dicom_options


def list_dicom(manifest: Manifest, source: DicomSource, number: int, asked: Asked) -> Listing:
    """List the files of a DICOM source; see `list_folder`."""
    return list_folder(manifest, source, number, dicom_options(source))


def list_nifti(manifest: Manifest, source: NiftiSource, number: int, asked: Asked) -> Listing:
    """List the files of a NIfTI source; see `list_folder`."""
    options = NiftiOptions(projection=source.projection, axis=source.axis, window=source.window)
    return list_folder(manifest, source, number, options)


def list_images(manifest: Manifest, source: ImageSource, number: int, asked: Asked) -> Listing:
    """List the files of a PNG, JPEG or TIFF source; see `list_folder`."""
    return list_folder(manifest, source, number, ImageOptions(colour=source.colour))
