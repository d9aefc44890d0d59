"""Sex, age band and view of every record as codes, which training reads without a table library."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.cohort import ATTRIBUTES, UNKNOWN


class AttributeCodes:
    """Collects the attributes record by record, in one byte each.

    Each attribute has few values (`sex_code`, `age_band`, the known views), far below the 255 of a byte.
    """

    def __init__(self) -> None:
        self._found: dict[str, dict[str, int]] = {name: {} for name in ATTRIBUTES}
        self._codes = bytearray()

    def add(self, **values: str) -> None:
        """Append one record: a value for each of `ATTRIBUTES`, empty if unknown."""
        for name in ATTRIBUTES:
            value, found = values[name], self._found[name]
            self._codes.append(found.setdefault(value, len(found)) if value else UNKNOWN)

    def finish(self) -> tuple[dict[str, tuple[str, ...]], npt.NDArray[np.uint8]]:
        """Return the values of each attribute, sorted, and the codes (N, 3) uint8.

        The values are empty if no record has any attribute.
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
