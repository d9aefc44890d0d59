"""The phantom cohort as a source: created once in the cache, and read as folders of DICOM and NIfTI files."""

from __future__ import annotations

from pathlib import Path

from pipeline.manifest import Manifest
from pipeline.manifest.kinds.dicom import DicomSource
from pipeline.manifest.kinds.nifti import NiftiSource
from pipeline.manifest.kinds.phantom import PhantomSource
from pipeline.manifest.rules import AttributeRule, PatientRule
from pipeline.manifest.table_rules import TableRule
from pipeline.phantom.settings import PhantomSettings, plan_patient
from pipeline.sources.base import Asked
from pipeline.sources.file_listing import list_dicom, list_nifti
from pipeline.sources.folders import Listing, merge
from pipeline.storage import cache_directory, make_private_directory


def phantom_settings(source: PhantomSource, num_patients: int | None) -> PhantomSettings:
    """Return the manifest's phantom settings, with `num_patients` replaced unless it is None."""
    if num_patients is None:
        return source.settings
    return PhantomSettings(**{**source.settings.model_dump(), "num_patients": num_patients})


def phantom_folder(settings: PhantomSettings) -> Path:
    """Return the folder of a phantom cohort with these settings in the cache."""
    return cache_directory() / "phantom" / settings.digest()[:24]


def list_phantom(manifest: Manifest, source: PhantomSource, number: int, asked: Asked) -> Listing:
    """Create the phantom cohort if it does not exist, and list its files.

    Args:
        manifest: the manifest of the source.
        source: the phantom's rules.
        number: position of the source in the manifest.
        asked: request with the number of patients, which replaces the manifest's.
    """
    from pipeline.phantom.writer import MARKER, write_phantom_cohort
    from pipeline.progress import track

    settings = phantom_settings(source, asked.phantom_patients)
    folder = phantom_folder(settings)
    make_private_directory(folder)
    if (folder / MARKER).exists():
        write_phantom_cohort(folder, settings)
    else:
        total = sum(plan_patient(settings, index).num_images for index in range(settings.num_patients))
        with track("phantom cohort", total, unit="images") as progress:
            write_phantom_cohort(folder, settings, progress)
    common = {
        "path": str(folder),
        "table": TableRule(path=str(folder / "labels.csv")),
        "label": source.label,
        "attributes": AttributeRule.model_validate({"sex": "sex", "age": "age"}),
    }
    dicom = DicomSource(kind="dicom", include=("dicom/**/*",), patient=PatientRule(tag="PatientID"), **common)
    parts = [list_dicom(manifest, dicom, number, asked)]
    if (folder / "nifti").is_dir() and any((folder / "nifti").rglob("*.nii*")):
        nifti = NiftiSource(
            kind="nifti", include=("nifti/**/*",), patient=PatientRule(column="patient_id"), **common
        )
        parts.append(list_nifti(manifest, nifti, number, asked))
    listing = merge(parts)
    # The settings determine every file, so the times of the cached files do not matter.
    listing.fingerprint = settings.digest()
    return listing
