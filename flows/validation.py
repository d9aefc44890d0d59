"""The checks of `phosphor validate`: which data a manifest refers to, without decoding a scan."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pipeline.artifacts.cohort import PatientIds
from pipeline.errors import DataError
from pipeline.identity import Pseudonyms, existing_key
from pipeline.manifest import Manifest


@dataclass
class Reachable:
    """The data of a manifest.

    Attributes:
        lines: what was found, in words, one line per source.
        counts: scans listed by class; `refused` counts those that have no usable label or patient.
        not_read: reason -> what lies in the sources and is no scan.
        patient_ids: what the ids that are known without reading a header are like; None if none is.
    """

    lines: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    not_read: dict[str, int] = field(default_factory=dict)
    patient_ids: PatientIds | None = None


def reachable_data(manifest: Manifest) -> Reachable:
    """List the contents of the manifest's sources, without downloading or writing anything.

    Raises:
        ManifestError: a variable is not set or a table lacks a column.
        DataError: a folder, table or archive is missing or unreadable, nothing at all is listed, or a label
            is not usable as a class name.
    """
    from pipeline.ingest.splitting.patients import id_notes, largest_share, listed_ids
    from pipeline.ingest.splitting.rows import class_names
    from pipeline.sources.listing import list_scans
    from pipeline.sources.unread import unread_counts, unread_notes

    found = Reachable()
    listed = True
    for number, source in enumerate(manifest.sources):
        elsewhere = source.not_here(manifest.present)
        found.lines.append(f"sources.{number}: {elsewhere or source.kind}")
        listed = listed and not elsewhere
    if not listed:
        return found
    listing = list_scans(manifest)
    counts = Counter("refused" if task.refusal else task.label for task in listing.tasks)
    if not sum(count for name, count in counts.items() if name != "refused"):
        raise DataError(
            "no usable scan is listed", field="sources", remedy="Check path, include patterns and labels."
        )
    found.counts = dict(sorted(counts.items()))
    found.lines += [f"{name}: {count} scans" for name, count in found.counts.items()]
    reasons = Counter(task.refusal for task in listing.tasks if task.refusal)
    found.lines += [f"refused: {count} scans ({reason})" for reason, count in reasons.most_common()]
    found.lines += listing.notes
    class_names(manifest, listing)
    ids = listed_ids(listing.tasks)
    headers = sum(task.patient is None and not task.refusal for task in listing.tasks)
    if headers:
        found.lines.append(f"{headers} scans have the patient id in their header: ingest compares those ids")
    if ids.largest:
        found.patient_ids = ids
        found.lines.append(f"the largest patient has {largest_share(ids)}")
        found.lines += id_notes(ids)
    found.not_read = unread_counts(listing.unread)
    found.lines += unread_notes(listing.unread, _pseudonyms() if listing.unread else None)
    if not listing.has_patient_ids:
        found.lines.append("no patient ids: each image counts as its own patient, and the gate cannot PASS")
    return found


def _pseudonyms() -> Pseudonyms | None:
    """Return what hashes names, None where there is no key yet: a check makes none."""
    key = existing_key()
    return None if key is None else Pseudonyms(key)
