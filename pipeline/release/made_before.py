"""Earlier releases at the same place: the new release names those that its audit did not include."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.append_log import RELEASES_NAME, append_entry, log_beside, read_entries
from pipeline.artifacts.privacy_report import PrivacyReport, read_privacy_report
from pipeline.errors import DataError
from pipeline.records import ReleaseRef
from pipeline.stage import REFERENCE_NAME, load_reference

REMEDY = (
    "If one of them may have been shared, keep a copy of it, audit again with "
    "--set 'audit.earlier_releases=[\"COPY\"]', and release again."
)


def uncounted_releases(out: Path, report: PrivacyReport) -> tuple[str, ...]:
    """Return the content digests of earlier releases at this place that an audit does not include.

    These are the releases of the same cohort in this folder, and all releases of this name: a cohort that was
    made again has another digest but mostly the same patients.

    Args:
        out: directory of the new release.
        report: the audit's aggregates, which name the earlier releases that it includes.
    """
    counted = {part.digest for part in report.earlier_releases}
    found = {
        str(entry.get("digest", "")): None
        for entry in read_entries(log_beside(out, RELEASES_NAME))
        if entry.get("cohort") == report.cohort_digest or entry.get("name") == out.name
    }
    return tuple(digest for digest in found if digest not in counted)


def uncounted_words(digests: Sequence[str]) -> str:
    """Return a sentence on releases that an audit does not include; empty if there are none."""
    if not digests:
        return ""
    several = len(digests) > 1
    return (
        f"{len(digests)} earlier release{'s' if several else ''} of the same or overlapping scans "
        f"{'were' if several else 'was'} not given to the audit: whoever has {'them' if several else 'it'} "
        "as well can learn more about the patients than is measured here"
    )


def log_present(out: Path) -> None:
    """Log the release at `out` that is about to be replaced, unless it was logged when it was made."""
    if not (out / REFERENCE_NAME).is_file():
        return
    try:
        digest = load_reference(ReleaseRef, out).digest
        cohort = read_privacy_report(out).cohort_digest
    except DataError:
        # It was changed since, so its digest is unknown; it is logged without one.
        digest = cohort = ""
    log_release(out, digest, cohort)


def log_release(out: Path, digest: str, cohort: str) -> None:
    """Log that a release was made at `out`, once per content.

    Args:
        out: directory of the release.
        digest: content digest of the release.
        cohort: digest of its cohort.
    """
    log = log_beside(out, RELEASES_NAME)
    entry = {"name": out.name, "digest": digest, "cohort": cohort}
    if not any(entry.items() <= known.items() for known in read_entries(log)):
        append_entry(log, entry)
