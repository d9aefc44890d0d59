"""Search one buffer for very many byte strings at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

_BLOCK_BYTES = 4 * 2**20
_TABLE_BITS = 20
_MULTIPLIER = {4: np.uint32(0x9E3779B1), 8: np.uint64(0x9E3779B97F4A7C15)}


class Matcher:
    """Finds which of many patterns occur in a buffer, at a cost nearly independent of their number.

    The last 8 bytes of a pattern (4 of a short one) are its anchor. Every window of the buffer is looked up
    in a bit table of hashed anchors, the few that pass are compared exactly, and only then is the pattern
    itself compared: the first step of Wu and Manber's multi-pattern search, vectorised.

    Args:
        patterns: byte strings of at least 4 bytes, each with the owners that are returned on a hit.
    """

    def __init__(self, patterns: Mapping[bytes, Iterable[int]]) -> None:
        self._owners = {pattern: frozenset(owners) for pattern, owners in patterns.items()}
        by_anchor: dict[int, dict[bytes, list[bytes]]] = {4: defaultdict(list), 8: defaultdict(list)}
        for pattern in self._owners:
            if len(pattern) < 4:
                raise ValueError(f"patterns must have at least 4 bytes, got {len(pattern)}")
            width = 8 if len(pattern) >= 8 else 4
            by_anchor[width][pattern[-width:]].append(pattern)
        self._anchors = {width: dict(table) for width, table in by_anchor.items() if table}
        self._keys = {
            width: np.sort(np.frombuffer(b"".join(table), dtype=f"<u{width}"))
            for width, table in self._anchors.items()
        }
        self._tables = {width: _bit_table(keys, width) for width, keys in self._keys.items()}
        self._longest = max(map(len, self._owners), default=0)

    def find(self, data: bytes) -> dict[int, bytes]:
        """Return {owner: one pattern of it that occurs in `data`}."""
        found: dict[int, bytes] = {}
        if not self._owners:
            return found
        overlap = self._longest - 1
        for start in range(0, max(len(data), 1), _BLOCK_BYTES):
            begin = max(start - overlap, 0)
            block = data[begin : start + _BLOCK_BYTES]
            for width in self._anchors:
                self._find_anchored(block, width, found)
        return found

    def _find_anchored(self, block: bytes, width: int, found: dict[int, bytes]) -> None:
        table = self._tables[width]
        anchors = self._anchors[width]
        for shift in range(width):
            count = (len(block) - shift) // width
            if count <= 0:
                return
            keys = np.frombuffer(block, dtype=f"<u{width}", count=count, offset=shift)
            hits = np.flatnonzero(table[_hashed(keys, width)])
            known = self._keys[width]
            at = np.minimum(np.searchsorted(known, keys[hits]), len(known) - 1)
            for hit in hits[known[at] == keys[hits]]:
                end = shift + int(hit) * width + width
                for pattern in anchors.get(block[end - width : end], ()):
                    if end >= len(pattern) and block.startswith(pattern, end - len(pattern)):
                        for owner in self._owners[pattern]:
                            found.setdefault(owner, pattern)


def _hashed(keys: np.ndarray, width: int) -> np.ndarray:
    return (keys * _MULTIPLIER[width]) >> keys.dtype.type(8 * width - _TABLE_BITS)


def _bit_table(keys: np.ndarray, width: int) -> np.ndarray:
    table = np.zeros(1 << _TABLE_BITS, dtype=bool)
    table[_hashed(keys, width)] = True
    return table
