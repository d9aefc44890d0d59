"""Which earlier releases an audit reads, by their digests: known without torch, before anything is opened."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import DataError
from pipeline.privacy.settings import AuditSettings
from pipeline.records import ReleaseRef
from pipeline.stage import load_reference
from pipeline.storage import digest_of


def earlier_digests(settings: AuditSettings) -> list[str]:
    """Return the digests of the releases that the settings name, each once, in order.

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
    """Return the input by which an audit that counts earlier releases is told from others; empty without any.

    They stand there with their digests and not with their paths: moved, they are the same.
    """
    found = earlier_digests(settings)
    return {"earlier_releases": digest_of(found)} if found else {}


def as_earlier(error: DataError, path: Path) -> DataError:
    """Return the error as one of `audit.earlier_releases`, of the same class."""
    return type(error)(
        error.problem,
        field="audit.earlier_releases",
        value=str(path),
        remedy="Name releases of this cohort, of its image size.",
    )
