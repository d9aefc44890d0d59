"""Scans where they must not be: test scans among synthetic images, and scans that two cohorts share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.pixels import StoredPixels
from pipeline.artifacts.release import ReleasedImages
from pipeline.errors import DataError

_ROWS_A_BLOCK = 1024


def require_unseen(release: ReleasedImages, cohort: Cohort) -> None:
    """Check that no released image is a val or test scan, pixel by pixel: classifiers are tested on these.

    Raises:
        DataError: one is.
    """
    rows = np.concatenate([cohort.rows(split) for split in ("val", "test")])
    held_out = set(scan_digests(cohort, rows))
    copies = sum(digest in held_out for digest in _digests(release.pixels))
    if copies:
        raise DataError(
            f"{copies:,} of its {len(release):,} images are val or test scans of the cohort, on which "
            "classifiers are tested",
            field="release",
            remedy="Make a release from a generator that has never seen these scans.",
        )


def shared_scans(other: Cohort, cohort: Cohort) -> int:
    """Return how many scans of a cohort are also in another: the same source bytes, or the same pixels."""
    sources = set(cohort.records()["source_sha256"].dropna()) - {""}
    pixels = set(scan_digests(cohort, np.arange(cohort.info.num_scans)))
    same_source = other.records()["source_sha256"].isin(sources).tolist()
    digests = scan_digests(other, np.arange(other.info.num_scans))
    return sum(source or digest in pixels for source, digest in zip(same_source, digests, strict=True))


def scan_digests(cohort: Cohort, rows: Ints) -> Iterator[bytes]:
    """Yield the digest of the stored pixels of each scan."""
    for start in range(0, len(rows), _ROWS_A_BLOCK):
        yield from _digests(cohort.take(rows[start : start + _ROWS_A_BLOCK]))


def _digests(pixels: StoredPixels) -> Iterator[bytes]:
    for image in pixels:
        yield hashlib.blake2b(image.tobytes(), digest_size=16).digest()
