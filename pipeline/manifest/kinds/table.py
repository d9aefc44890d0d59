"""Kinds of sources: the rule of each, and the functions that list, read and search its scans."""

from __future__ import annotations

import functools
import pkgutil
from dataclasses import dataclass
from typing import Any

from pipeline.manifest.kinds.dicom import DicomSource
from pipeline.manifest.kinds.dicomweb import DicomWebSource
from pipeline.manifest.kinds.images import ImageSource
from pipeline.manifest.kinds.medmnist import MedmnistSource
from pipeline.manifest.kinds.nifti import NiftiSource
from pipeline.manifest.kinds.phantom import PhantomSource
from pipeline.manifest.kinds.scan_rules import SourceRule


@dataclass(frozen=True)
class SourceKind:
    """Kind of source.

    Functions are given as `package.module:function` and imported at the first call, so that checking a
    manifest imports no reader, and a worker process only those of its scans.

    Attributes:
        rule: class of such a source in a manifest; a `FolderRule` has a folder, include patterns and a table,
            a `ScanRules` has all of these except the folder.
        lists: (manifest, rule, number of the source, `Asked`) -> `Listing`.
        reads: (task, bytes of the file) -> iterator of `Scan`, for tasks whose `ReadRule.kind` is this kind;
            empty if its scans are listed as scans of other kinds.
        values: `FileValues` that collect the identifying values of a file.
        patient: (task, bytes of the file) -> patient id in the file; empty if files have no patient id.
        has_files: whether each scan is in a file of a store. If not, `reads` gets no bytes, and names and
            places of the scans do not identify a patient.

    Raises:
        ValueError: files of this kind are read, but their values are not collected.
    """

    rule: type[SourceRule]
    lists: str
    reads: str = ""
    values: str = ""
    patient: str = ""
    has_files: bool = True

    def __post_init__(self) -> None:
        if self.reads and self.has_files and not self.values:
            raise ValueError(f"{self.reads}: set `values` to the collector of a file's identifying values")


KINDS: dict[str, SourceKind] = {
    "dicom": SourceKind(
        DicomSource,
        lists="pipeline.sources.file_listing:list_dicom",
        reads="pipeline.sources.dicom.source:read",
        values="pipeline.residual.values.dicom_values:DICOM",
        patient="pipeline.sources.dicom.source:read_patient",
    ),
    "nifti": SourceKind(
        NiftiSource,
        lists="pipeline.sources.file_listing:list_nifti",
        reads="pipeline.sources.nifti:read",
        values="pipeline.residual.values.file_values:NIFTI",
    ),
    "images": SourceKind(
        ImageSource,
        lists="pipeline.sources.file_listing:list_images",
        reads="pipeline.sources.images.source:read",
        values="pipeline.residual.values.file_values:IMAGES",
    ),
    "dicomweb": SourceKind(DicomWebSource, lists="pipeline.sources.dicomweb.source:list_server"),
    "medmnist": SourceKind(
        MedmnistSource,
        lists="pipeline.sources.medmnist_listing:list_archive",
        reads="pipeline.sources.medmnist:read",
        has_files=False,
    ),
    "phantom": SourceKind(PhantomSource, lists="pipeline.sources.phantom:list_phantom"),
}
"""Name of the kind in a manifest -> its record, in the order of error messages."""


@functools.cache
def named(target: str) -> Any:
    """Return the object that a record gives as `package.module:name`.

    Raises:
        ImportError: the module does not exist.
        AttributeError: the module has no such name.
    """
    return pkgutil.resolve_name(target)
