"""Rules for reading the scans of a source, from the source's rules in the manifest."""

from __future__ import annotations

from pipeline.errors import ManifestError
from pipeline.manifest import Manifest
from pipeline.manifest.kinds.dicom import DicomReading
from pipeline.manifest.kinds.scan_rules import FolderRule, ScanRules
from pipeline.sources.base import DicomOptions, ReadRule, source_prefix
from pipeline.sources.stores import kind_of


def read_rule(manifest: Manifest, source: FolderRule, number: int, options: object = None) -> ReadRule:
    """Return the rule by which all scans of a source are read.

    Args:
        manifest: the manifest, for its paths.
        source: the source's rules.
        number: position of the source in the manifest.
        options: options of the kind's reader.

    Raises:
        ManifestError: a variable is not set, or the patient tag is not a DICOM keyword.
        DataError: the path does not exist, or is no folder or archive.
    """
    at = f"sources.{number}"
    root = manifest.resolve(source.path, f"{at}.path")
    return ReadRule(
        source.kind,
        str(root),
        patient_tag=patient_tag(source, at),
        prefix=source_prefix(number),
        store=kind_of(root, field=f"{at}.path"),
        options=options,
    )


def dicom_options(source: DicomReading) -> DicomOptions:
    """Return the options for reading the DICOM files of a source."""
    return DicomOptions(
        frames=str(source.frames),
        window=str(source.window),
        headless=source.headless,
        colour=source.colour,
    )


def patient_tag(source: ScanRules, at: str) -> str:
    """Return the DICOM keyword of the patient id; empty if the patient has another source.

    Raises:
        ManifestError: it is not a DICOM keyword.
    """
    tag = source.patient.tag if source.patient and source.patient.tag else ""
    # Nearly all manifests use PatientID; the imports for a look-up would take a quarter of a second.
    if tag in {"", "PatientID"}:
        return tag
    from pydicom.datadict import tag_for_keyword

    if tag_for_keyword(tag) is None:
        raise ManifestError(
            "not a DICOM keyword",
            field=f"{at}.patient.tag",
            value=tag,
            remedy="Use a keyword such as PatientID.",
        )
    return tag
