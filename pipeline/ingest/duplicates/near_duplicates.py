"""Near-duplicates: copies that were re-encoded, resized, brightened, shifted or slightly cropped."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Codes, Floats, Ints
from pipeline.ingest.duplicates.duplicates import Duplicates, find_duplicates
from pipeline.ingest.duplicates.registration import aligned_correlation, prepare
from pipeline.ingest.duplicates.similar_pairs import Pairs, candidate_pairs, similarities

MIN_CORRELATION = 0.88
"""Smallest correlation of aligned fine detail of a near-duplicate. Among 5,856 chest radiographs at 28 and 32
pixels, the most alike pair of different patients that is no copy reaches 0.83; copies that were cropped by
3 %, shifted by 2 of 224 pixels, or compressed at quality 60 reach 0.88 or more in 99.5 % and above."""

CHANCE_PAIRS = 0.01
"""Pairs of unrelated scans, expected in a whole cohort, that may pass by chance."""

ALIKE_THRESHOLD, ALIKE_SIMILARITY = 0.97, 0.985
"""Where only almost equal detail counts, only pairs with almost equal signatures can have it, and the many
that are merely alike need no closer look. Of 900 copies of phantoms (compressed, resized, other gamma,
cropped, shifted, noise) those that agree by .98 or more have signatures of cosine .993 or more."""

_SAMPLE = 512
_BATCH = 128
_ROUNDS = 8
_ALMOST_FULLY = 0.97


class Thumbnails(Protocol):
    """Where thumbnails come from."""

    def fetch(self, rows: Ints) -> None:
        """Make the thumbnails of some rows ready; called once, before any is taken."""

    def take(self, rows: Ints) -> npt.NDArray[np.uint8]:
        """Return the thumbnails (n, T, T) of rows that were fetched."""


@dataclass(frozen=True)
class NearDuplicates:
    """Near-duplicates of a cohort.

    Attributes:
        pairs: (M, 2) scan numbers, first < second; of several exact copies only the first one stands here.
        correlation: (M,) correlation of their aligned fine detail.
        threshold: the smallest correlation that counted.
        groups: exact and near duplicates together, each near one in a group with one that it is a copy of.
    """

    pairs: Pairs
    correlation: Floats
    threshold: float
    groups: Duplicates


def find_near_duplicates(
    signatures: npt.NDArray[np.int8], thumbnails: Thumbnails, *, exact: Codes, patients: Codes, labels: Codes
) -> NearDuplicates:
    """Find near-duplicates among scans by signature, then by their aligned thumbnails.

    How alike two scans must be depends on how alike unrelated ones are: where all pictures of a cohort look
    nearly the same, only closer pairs count.

    Args:
        signatures: (N, D) int8.
        thumbnails: gives the thumbnails of rows.
        exact: (N,) number of each scan's group of equal pixels.
        patients: (N,) patient of each scan.
        labels: (N,) class of each scan.
    """
    _, first = np.unique(exact, return_index=True)
    rows = np.sort(first).astype(np.int64)
    pairs = rows[candidate_pairs(signatures[rows])]
    if not len(pairs):
        nothing = np.zeros(0)
        return NearDuplicates(pairs, nothing, MIN_CORRELATION, find_duplicates(_as_bytes(exact), labels))
    unrelated = _unrelated(rows, patients)
    thumbnails.fetch(np.unique(np.concatenate([pairs, unrelated])))
    threshold = max(MIN_CORRELATION, _chance_correlation(unrelated, len(rows), thumbnails))
    if threshold >= ALIKE_THRESHOLD:
        pairs = pairs[similarities(signatures, pairs) >= ALIKE_SIMILARITY]
    found = _correlations(pairs, thumbnails)
    close = found >= threshold
    pairs, found = pairs[close], found[close]
    groups = _joined(exact, rows, _stars(pairs, threshold, thumbnails))
    return NearDuplicates(pairs, found, threshold, find_duplicates(_as_bytes(groups), labels))


def _correlations(pairs: Pairs, thumbnails: Thumbnails) -> Floats:
    found = np.empty(len(pairs))
    for start in range(0, len(pairs), _BATCH):
        batch = pairs[start : start + _BATCH]
        rows, places = np.unique(batch, return_inverse=True)
        places = places.reshape(batch.shape)
        ready = prepare(thumbnails.take(rows))
        found[start : start + _BATCH] = aligned_correlation(
            ready.take(places[:, 0]), ready.take(places[:, 1])
        )
    return found


def _unrelated(rows: Ints, patients: Codes) -> Pairs:
    """Return evenly spread pairs of different patients; no random numbers, so the result stays the same."""
    step = np.arange(min(_SAMPLE, 4 * len(rows)))
    first = rows[(step * len(rows)) // len(step)]
    second = rows[((step * 0.6180339887498949) % 1.0 * len(rows)).astype(np.int64)]
    return np.stack([first, second], axis=1)[patients[first] != patients[second]]


def _chance_correlation(unrelated: Pairs, count: int, thumbnails: Thumbnails) -> float:
    """Return the correlation that `CHANCE_PAIRS` of all pairs of unrelated scans should exceed.

    Fisher's z = artanh(r) of unrelated pairs is close to normal; its upper spread is measured between the
    median and the 98th percentile. Copies among the sample are left out: what agrees almost fully counts
    only where a quarter of all pairs does, and so must be unrelated.
    """
    if not len(unrelated):
        return MIN_CORRELATION
    z = np.arctanh(np.clip(_correlations(unrelated, thumbnails), -0.9999, 0.9999))
    apart = z < np.arctanh(_ALMOST_FULLY)
    median, high = np.percentile(z[apart] if apart.mean() > 0.75 else z, [50, 98])
    normal = statistics.NormalDist()
    spread = max(float(high - median) / normal.inv_cdf(0.98), 0.05)
    share = min(CHANCE_PAIRS / (count * (count - 1) / 2), 0.5)
    return float(np.tanh(median - spread * normal.inv_cdf(share)))


def _stars(pairs: Pairs, threshold: float, thumbnails: Thumbnails) -> list[list[int]]:
    """Return groups of scans that are each a near-duplicate of one member of their group.

    Chains do not count: were a scan like a second and that like a third, unrelated scans at the ends of a
    long chain would be joined. What fits no group after some rounds stays alone.
    """
    if not len(pairs):
        return []
    partners: dict[int, set[int]] = {}
    for first, second in pairs.tolist():
        partners.setdefault(first, set()).add(second)
        partners.setdefault(second, set()).add(first)
    stars = []
    for component in _components(pairs):
        left = set(component)
        for _ in range(_ROUNDS):
            leader = max(sorted(left), key=lambda row: len(partners[row] & left), default=-1)
            if leader < 0 or not partners[leader] & left:
                break
            others = sorted(left - {leader} - partners[leader])
            asked = np.array([sorted((leader, other)) for other in others], dtype=np.int64).reshape(-1, 2)
            close = _correlations(asked, thumbnails) >= threshold
            star = {leader} | (partners[leader] & left)
            star |= {other for other, fits in zip(others, close, strict=True) if fits}
            stars.append(sorted(star))
            left -= star
    return stars


def _components(pairs: Pairs) -> list[list[int]]:
    """Return the groups of scans that pairs connect, each sorted."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, places = np.unique(pairs, return_inverse=True)
    first, second = places.reshape(pairs.shape).T
    links = coo_array((np.ones(len(pairs)), (first, second)), shape=(len(rows), len(rows)))
    _, group = connected_components(links, directed=False)
    ends = np.cumsum(np.bincount(group))[:-1]
    return [part.tolist() for part in np.split(rows[np.argsort(group, kind="stable")], ends)]


def _joined(exact: Codes, rows: Ints, stars: list[list[int]]) -> Codes:
    """Return group numbers in which the exact groups of each star's members are one."""
    target = np.arange(int(exact.max()) + 1)
    for star in stars:
        target[exact[star]] = exact[star[0]]
    return target[exact]


def _as_bytes(numbers: Codes) -> npt.NDArray[np.void]:
    return np.ascontiguousarray(numbers, dtype=np.int64).view("V8")
