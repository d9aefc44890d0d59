"""Encodes the attributes of every record, so that training reads them without a table library."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.cohort import ATTRIBUTES, UNKNOWN
from pipeline.errors import DataError


class AttributeCodes:
    """Collects the attributes record by record, in one byte each.

    An attribute (`pipeline.scan_attributes`) has at most 255 values; one more code means unknown.
    """

    def __init__(self) -> None:
        self._found: dict[str, dict[str, int]] = {name: {} for name in ATTRIBUTES}
        self._codes = bytearray()

    def add(self, values: Sequence[str]) -> None:
        """Append one record: a value for each of `ATTRIBUTES`, empty if unknown.

        Raises:
            DataError: an attribute has more than 255 values.
        """
        self._codes += bytes([self._code(*pair) for pair in zip(ATTRIBUTES, values, strict=True)])

    def _code(self, name: str, value: str) -> int:
        found = self._found[name]
        if not value:
            return UNKNOWN
        if value not in found and len(found) == UNKNOWN:
            raise DataError(
                f"has more than {UNKNOWN} values",
                field=f"attributes.{name}",
                remedy="Map them to fewer values with `values`, or leave the attribute out.",
            )
        return found.setdefault(value, len(found))

    def finish(self) -> tuple[dict[str, tuple[str, ...]], npt.NDArray[np.uint8]]:
        """Return attribute -> its sorted values, and the codes (N, attributes) uint8.

        The mapping is empty if no record has any attribute.
        """
        codes = np.frombuffer(bytes(self._codes), dtype=np.uint8).reshape(-1, len(ATTRIBUTES)).copy()
        known: dict[str, tuple[str, ...]] = {}
        for column, (name, found) in enumerate(self._found.items()):
            known[name] = tuple(sorted(found))
            order = np.full(UNKNOWN + 1, UNKNOWN, dtype=np.uint8)
            for value, code in found.items():
                order[code] = known[name].index(value)
            codes[:, column] = order[codes[:, column]]
        return (known if any(known.values()) else {}), codes
