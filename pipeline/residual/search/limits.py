"""Limits of unpacking archives; a scan reports where it stopped."""

from __future__ import annotations

from dataclasses import dataclass

MAX_FILE_BYTES = 512 * 2**20
"""Larger files are searched block by block and not unpacked."""

MAX_PART_BYTES = 256 * 2**20
MAX_RATIO = 2000
"""A deflate stream reaches 1032; larger expansion is an attack or a blank image."""

MAX_DEPTH = 6
"""Archives within archives."""

MAX_TEXT_DEPTH = 3
"""Escapes within escapes (base64 of URL-quoted JSON)."""

MAX_MEMBERS = 200_000
MAX_UNPACKED_BYTES = 4 * 2**30
"""Bytes unpacked from one file, over all levels."""


@dataclass
class Budget:
    """Remaining number of bytes that one file may unpack to."""

    left: int = MAX_UNPACKED_BYTES

    def limit(self, packed: int) -> int:
        """Return how many bytes `packed` bytes may still expand to."""
        return max(min(MAX_PART_BYTES, 2**20 + MAX_RATIO * packed, self.left), 0)

    def spend(self, unpacked: int) -> None:
        """Count bytes that were unpacked."""
        self.left -= unpacked


@dataclass(frozen=True)
class Part:
    """Content unpacked from other content.

    Attributes:
        how: how it was unpacked (`gzip`, `zip member`, `base64`, ...).
        data: the content; may be cut at a limit.
        problem: why content is missing, empty if none is.
    """

    how: str
    data: bytes
    problem: str = ""
