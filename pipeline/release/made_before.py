"""Releases that were made at the same place before: those that the audit was not given are told of."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.append_log import RELEASES_NAME, append_entry, log_beside, read_entries
from pipeline.artifacts.privacy_report import PrivacyReport, read_privacy_report
from pipeline.errors import DataError
from pipeline.records import ReleaseRef
from pipeline.stage import REFERENCE_NAME, load_reference

REMEDY = (
    "If one of them may have left, keep a copy of it, audit again with "
    "--set 'audit.earlier_releases=[\"COPY\"]', and release again."
)


def uncounted_releases(out: Path, report: PrivacyReport) -> tuple[str, ...]:
    """Return the content digests of what was released here before and is not counted in an audit.

    These are the releases of the same cohort that were made in this folder, and all that stood at this very
    name: a cohort that was made again has another digest and mostly the same patients.

    Args:
        out: where the new release is to appear.
        report: the audit's aggregates, which name the earlier releases that it was given.
    """
    counted = {part.digest for part in report.earlier_releases}
    found = {
        str(entry.get("digest", "")): None
        for entry in read_entries(log_beside(out, RELEASES_NAME))
        if entry.get("cohort") == report.cohort_digest or entry.get("name") == out.name
    }
    return tuple(digest for digest in found if digest not in counted)


def uncounted_words(digests: Sequence[str]) -> str:
    """Return one sentence on releases that an audit does not know of; empty if there are none."""
    if not digests:
        return ""
    several = len(digests) > 1
    return (
        f"{len(digests)} earlier release{'s' if several else ''} of the same or overlapping scans "
        f"{'were' if several else 'was'} not given to the audit: whoever holds {'them' if several else 'it'} "
        "as well can tell more about the patients than is measured here"
    )


def log_present(out: Path) -> None:
    """Log the release that stands at `out` and is about to be replaced, unless it was when it was made."""
    if not (out / REFERENCE_NAME).is_file():
        return
    try:
        digest = load_reference(ReleaseRef, out).digest
        cohort = read_privacy_report(out).cohort_digest
    except DataError:
        # It was changed since, so nobody knows which one it is; that it was made stays.
        digest = cohort = ""
    log_release(out, digest, cohort)


def log_release(out: Path, digest: str, cohort: str) -> None:
    """Log that a release was made at `out`, once for each content.

    Args:
        out: where it stands.
        digest: its content digest.
        cohort: digest of the cohort behind it.
    """
    log = log_beside(out, RELEASES_NAME)
    entry = {"name": out.name, "digest": digest, "cohort": cohort}
    if not any(entry.items() <= known.items() for known in read_entries(log)):
        append_entry(log, {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **entry})
