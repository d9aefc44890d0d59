"""Listing of a MedMNIST archive: label, findings, patient and part of each row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.errors import DataError
from pipeline.manifest import Manifest
from pipeline.manifest.kinds.medmnist import MedmnistSource
from pipeline.manifest.rules import PatientRule
from pipeline.sources import medmnist
from pipeline.sources.base import OWN_PATIENT, Asked, ReadRule, ScanTask, source_prefix
from pipeline.sources.folders import NO_PATIENT, Listing
from pipeline.sources.tables.labels import ABSENT, NOT_LISTED, PRESENT, ClassChooser, Verdict
from pipeline.storage import digest_of, sha256_file


def list_archive(manifest: Manifest, source: MedmnistSource, number: int, asked: Asked) -> Listing:
    """List the rows of an archive as tasks, in the order of `medmnist.rows`.

    Args:
        manifest: the manifest, for its paths and the kept test split.
        source: the archive's rules.
        number: position of the source in the manifest.
        asked: request with the image size of the cohort.

    Raises:
        ManifestError: a path has a variable that is not set.
        DataError: the archive or the patient table is missing or unreadable.
    """
    at = f"sources.{number}"
    path = archive_path(manifest, source, at, asked.image_size)
    patients, claims, note = _archive_patients(manifest, source, path, at)
    rule = ReadRule("medmnist", str(path), prefix=source_prefix(number), store="npz")
    listing = Listing(
        published=(source.published_split,),
        findings=source.findings,
        has_patient_ids=patients is not None,
    )
    verdict = _verdicts(source, manifest)
    content = sha256_file(path)
    keeps = manifest.split.keep_test == source.published_split
    unmatched = source.patient.unmatched if source.patient else "own"
    unknown = 0
    published = {part: (part,) for part in medmnist.parts_of(path)}
    for part, row, found in medmnist.rows(path, num_findings=len(source.findings)):
        name = f"{part}/{row}"
        label, findings, refusal = verdict(found)
        patient: str | None = OWN_PATIENT + rule.prefix + name
        if patients is not None:
            patient = patients.get(name)
            if patient is None:
                unknown += 1
                lenient = unmatched == "own" or (
                    unmatched == "own_in_test" and keeps and part == manifest.split.test_part
                )
                if lenient:
                    patient = OWN_PATIENT + rule.prefix + name
                else:
                    refusal = refusal or NO_PATIENT
        listing.tasks.append(
            ScanTask(
                rule=rule,
                name=name,
                label=label,
                patient=patient,
                published=published[part],
                refusal=refusal,
                claimed=claims.get(name, ""),
                findings=findings,
                stamp=content,
            )
        )
    if note:
        listing.notes.append(note)
    if unknown:
        listing.notes.append(
            f"{unknown} of {len(listing.tasks)} images have no patient: the table has none or a placeholder, "
            "or its image differs"
        )
    listing.fingerprint = digest_of(
        [content, digest_of([sorted((patients or {}).items()), sorted(claims.items())])]
    )
    return listing


def archive_path(manifest: Manifest, source: MedmnistSource, at: str, image_size: int | None = None) -> Path:
    """Return the path of the archive: the local file if it exists, else the downloaded one.

    Args:
        manifest: the manifest, for its paths.
        source: the archive's rules.
        at: manifest key of the source, for error messages.
        image_size: side of the cohort's images in pixels, which selects one of several sizes.

    Raises:
        DataError: the file does not exist and has no download, or the download fails.
        ManifestError: the path has a variable that is not set, and there is no download.
    """
    text, download = source.chosen(image_size)
    if text is not None and (found := manifest.present(text)) is not None:
        return found
    if download is None:
        assert text is not None, "MedmnistSource requires a path or a download"
        missing = str(manifest.resolve(text, f"{at}.path"))
        raise DataError(
            "the file does not exist", field=f"{at}.path", value=missing, remedy="Correct the path."
        )
    from pipeline.sources.download import fetch

    return fetch(download.url, download.md5, f"{manifest.name}.npz")


def _verdicts(source: MedmnistSource, manifest: Manifest) -> Callable[[str | tuple[int, ...]], Verdict]:
    """Return a function from a row's label to its class, findings and reason of refusal."""
    names = source.columns
    chooser = ClassChooser(source.findings, source.none, manifest.ranked, several=source.several)

    def verdict(found: str | tuple[int, ...]) -> Verdict:
        if isinstance(found, str):
            label = source.labels.get(found, "")
            return label, b"", "" if label else NOT_LISTED
        if not set(found) <= {ABSENT, PRESENT}:
            return "", b"", NOT_LISTED
        return chooser.choose(dict(zip(names, found, strict=True)), has_none=not any(found))

    return verdict


def _archive_patients(
    manifest: Manifest, source: MedmnistSource, path: Path, at: str
) -> tuple[dict[str, str] | None, dict[str, str], str]:
    """Return (`part/row` -> patient, or None without a table; `part/row` -> claimed patient; a note)."""
    rule: PatientRule | None = source.patient
    if rule is None or rule.table is None:
        return None, {}, ""
    from pipeline.sources.tables.patients import patient_of_rows

    table = manifest.present(rule.table)
    check = manifest.present(rule.verify_images.path) if rule.verify_images else None
    if table is None or (rule.verify_images is not None and check is None):
        if rule.optional:
            return None, {}, "the optional patient table does not exist"
        manifest.resolve(rule.table, f"{at}.patient.table")
        raise DataError(
            "the patient table, or the archive that verifies it, does not exist",
            field=f"{at}.patient.table",
            remedy="Correct the path, or set `optional: true` to continue without patients.",
        )
    return *patient_of_rows(rule, table, path, check), ""
