"""Digests of the earlier releases that an audit includes, read without torch and before opening the data."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import DataError
from pipeline.privacy.settings import AuditSettings
from pipeline.records import ReleaseRef
from pipeline.stage import load_reference
from pipeline.storage import digest_of


def earlier_digests(settings: AuditSettings) -> list[str]:
    """Return the sorted digests of the releases in the settings, without duplicates.

    Raises:
        DataError: one is not a finished release.
    """
    found = set()
    for path in settings.earlier_releases:
        try:
            found.add(load_reference(ReleaseRef, path).digest)
        except DataError as error:
            raise as_earlier(error, path) from error
    return sorted(found)


def earlier_input(settings: AuditSettings) -> dict[str, str]:
    """Return the input that identifies the earlier releases of an audit; empty if there are none.

    It is made of digests, not of paths: a release that was moved is the same input.
    """
    found = earlier_digests(settings)
    return {"earlier_releases": digest_of(found)} if found else {}


def as_earlier(error: DataError, path: Path) -> DataError:
    """Return the error as one of `audit.earlier_releases`, of the same class."""
    return type(error)(
        error.problem,
        field="audit.earlier_releases",
        value=str(path),
        remedy="Name releases of this cohort and of its image size.",
    )
