"""The kinds of source, one record each: its rule, and the functions that list, read and search its scans."""

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
    """A kind of source.

    Functions are named as `package.module:function` and imported when they are first called: a manifest is
    checked without any reader, and a worker process loads the readers of its own scans alone.

    Attributes:
        rule: what a manifest says of such a source; a `FolderRule` has a folder, include patterns and a
            table, a `ScanRules` all but the folder.
        lists: (manifest, rule, number of the source, `Asked`) -> `Listing`.
        reads: (task, the file's bytes) -> iterator of `Scan`, for the tasks whose `ReadRule.kind` is this
            kind; empty where its scans are listed as those of other kinds.
        values: the `FileValues` that collect what identifies a patient in one of its files.
        patient: (task, the file's bytes) -> the patient id that stands in the file; empty where none does.
        has_files: whether each scan lies in a file of a store. If not, `reads` is given no bytes, and names
            and places of its scans identify nobody.

    Raises:
        ValueError: its files are read, but nothing collects their values.
    """

    rule: type[SourceRule]
    lists: str
    reads: str = ""
    values: str = ""
    patient: str = ""
    has_files: bool = True

    def __post_init__(self) -> None:
        if self.reads and self.has_files and not self.values:
            raise ValueError(f"{self.reads}: name in `values` what collects the identifying values of a file")


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
"""Kind as a manifest names it -> its record, in the order in which messages name them."""


@functools.cache
def named(target: str) -> Any:
    """Return what a record names as `package.module:name`.

    Raises:
        ImportError, AttributeError: there is no such module, or nothing of that name in it.
    """
    return pkgutil.resolve_name(target)
