"""Checks for test scans among synthetic images, and for scans that two cohorts share."""

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
_WIDER = 257


def require_unseen(release: ReleasedImages, cohort: Cohort, rows: Ints, what: str) -> None:
    """Check that no released image is one of the scans that classifiers are tested on, pixel by pixel.

    Args:
        release: the released images.
        cohort: cohort of the scans.
        rows: rows of the scans.
        what: the scans in words, in the plural.

    Raises:
        DataError: one is.
    """
    tested = set(scan_digests(cohort, rows))
    copies = sum(digest in tested for digest in _digests(release.pixels))
    if copies:
        raise DataError(
            f"{copies:,} of its {len(release):,} images are {what}, on which classifiers are tested",
            field="release",
            remedy="Make a release from a generator that has never seen these scans.",
        )


def held_out(cohort: Cohort) -> Ints:
    """Return the rows of the val and test scans."""
    return np.concatenate([cohort.rows(split) for split in ("val", "test")])


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
    """Yield the digest of each image; one of 8 bits has the same if it is stored in 16."""
    for image in pixels:
        narrow = image.dtype == np.uint16 and not (image % _WIDER).any()
        stored = (image // _WIDER).astype(np.uint8) if narrow else image
        yield hashlib.blake2b(stored.tobytes(), digest_size=16).digest()
