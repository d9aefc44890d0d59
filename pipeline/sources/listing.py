"""All scans of a manifest as one list of light tasks, whatever the kinds of its sources."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pipeline.errors import DataError, ManifestError
from pipeline.manifest.model import (
    DicomSource,
    FolderRule,
    ImageSource,
    Manifest,
    MedmnistSource,
    NiftiSource,
    PhantomSource,
)
from pipeline.manifest.rules import PatientRule
from pipeline.sources import medmnist
from pipeline.sources.base import OWN_PATIENT, ReadRule, ScanTask, source_prefix
from pipeline.sources.folders import NO_PATIENT, Listing, list_folder
from pipeline.storage import digest_of, sha256_file

_KINDS = {DicomSource: "dicom", NiftiSource: "nifti", ImageSource: "images"}


def list_scans(manifest: Manifest, *, phantom_patients: int | None = None) -> Listing:
    """List every scan that the manifest's sources hold; downloads and makes what has to be there first.

    Args:
        manifest: a loaded manifest.
        phantom_patients: number of patients of a phantom source, instead of the manifest's.

    Raises:
        ManifestError: a path has a variable that is not set, or a table lacks a column.
        DataError: a folder, table or archive is missing or unreadable.
    """
    parts: list[Listing] = []
    for number, source in enumerate(manifest.sources):
        if isinstance(source, PhantomSource):
            from pipeline.sources.phantom_source import list_phantom

            parts.append(list_phantom(manifest, source, number, phantom_patients))
        elif isinstance(source, MedmnistSource):
            parts.append(_list_medmnist(manifest, source, number))
        elif isinstance(source, FolderRule):
            parts.append(list_folder(manifest, source, _KINDS[type(source)], number))
    return merge(parts)


def merge(parts: Iterable[Listing]) -> Listing:
    """Put several listings behind one another, with their published splits side by side."""
    parts = list(parts)
    if len(parts) == 1:
        return parts[0]
    names = tuple(dict.fromkeys(name for part in parts for name in part.published))
    whole = Listing(published=names, has_patient_ids=all(part.has_patient_ids for part in parts))
    for part in parts:
        whole.notes += part.notes
        if part.published == names:
            whole.tasks += part.tasks
            continue
        for task in part.tasks:
            known = dict(zip(part.published, task.published, strict=False))
            whole.tasks.append(replace(task, published=tuple(known.get(name, "") for name in names)))
    whole.fingerprint = digest_of([part.fingerprint for part in parts])
    return whole


def archive_path(manifest: Manifest, source: MedmnistSource, at: str) -> Path:
    """Return the archive's local path: the one named if present, else the downloaded one.

    Raises:
        DataError: it is not there and no download is declared, or the download fails.
    """
    if source.path is not None:
        found = manifest.present(source.path)
        if found is not None:
            return found
        if source.download is None:
            missing = manifest.resolve(source.path, f"{at}.path")
            raise DataError(
                "no such file",
                field=f"{at}.path",
                value=str(missing),
                remedy="Correct the path in the manifest.",
            )
    if source.download is None:
        raise ManifestError("neither path nor download is given", field=at, remedy="Give one of them.")
    from pipeline.sources.download import fetch

    return fetch(source.download.url, source.download.md5, f"{manifest.name}.npz")


def _list_medmnist(manifest: Manifest, source: MedmnistSource, number: int) -> Listing:
    at = f"sources.{number}"
    path = archive_path(manifest, source, at)
    patients, claims, note = _archive_patients(manifest, source, path, at)
    rule = ReadRule("medmnist", str(path), prefix=source_prefix(number), store="npz")
    listing = Listing(published=(source.published_split,), has_patient_ids=patients is not None)
    keeps = manifest.split.keep_test == source.published_split
    unmatched = source.patient.unmatched if source.patient else "own"
    unknown = 0
    for part, row, found in medmnist.rows(path):
        name = f"{part}/{row}"
        label = source.labels.get(found, "")
        refusal = "" if label else "label not listed in the manifest"
        patient: str | None = OWN_PATIENT + rule.prefix + name
        if patients is not None:
            patient = patients.get(name)
            if patient is None:
                unknown += 1
                own = unmatched == "own" or (
                    unmatched == "own_in_test" and keeps and part == manifest.split.test_part
                )
                refused = refusal or NO_PATIENT
                patient, refusal = (OWN_PATIENT + rule.prefix + name, refusal) if own else (None, refused)
        listing.tasks.append(
            ScanTask(
                rule=rule,
                name=name,
                label=label,
                patient=patient,
                published=(part,),
                refusal=refusal,
                claimed=claims.get(name, ""),
            )
        )
    if note:
        listing.notes.append(note)
    if unknown:
        listing.notes.append(
            f"{unknown} of {len(listing.tasks)} images do not agree with the patient table's: patient unknown"
        )
    listing.fingerprint = digest_of(
        [sha256_file(path), digest_of([sorted((patients or {}).items()), sorted(claims.items())])]
    )
    return listing


def _archive_patients(
    manifest: Manifest, source: MedmnistSource, path: Path, at: str
) -> tuple[dict[str, str] | None, dict[str, str], str]:
    """Return (`part/row` -> patient, or None without a table; the same, merely claimed; a note)."""
    rule: PatientRule | None = source.patient
    if rule is None or rule.table is None:
        return None, {}, ""
    from pipeline.sources.patients import patient_of_rows

    table = manifest.present(rule.table)
    check = manifest.present(rule.verify_images.path) if rule.verify_images else None
    if table is None or (rule.verify_images is not None and check is None):
        if rule.optional:
            return None, {}, "the optional patient table is not there"
        manifest.resolve(rule.table, f"{at}.patient.table")
        raise DataError(
            "the patient table, or the images that verify it, is missing",
            field=f"{at}.patient.table",
            remedy="Put it there, or set `optional: true` to go on without patients.",
        )
    return *patient_of_rows(rule, table, path, check), ""


def inputs_digest(manifest: Manifest, listing: Listing) -> dict[str, str]:
    """Return the digests by role of all that ingest reads, for `open_stage`."""
    return {
        "manifest": manifest.digest(),
        "scans": hashlib.sha256(listing.fingerprint.encode()).hexdigest(),
    }
