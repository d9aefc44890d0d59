"""Sex, age and view of a scan from columns of the table, each brought to its few known values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from pipeline.manifest.rules import AttributeColumn
from pipeline.sources.base import sex_code
from pipeline.sources.tables.rows import ScanRow

VIEWS = frozenset({"AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO", "LATERAL", "LAT"})
"""View positions that are kept (PS3.3 C.8.11.5, and the words that archives use); all others are dropped."""

_AGE_STRING = re.compile(r"(\d{1,4})([DWMY])")
_A_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}


class Attributes:
    """Reads a scan's attributes.

    Args:
        columns: attribute (`sex`, `age`, `view`) -> where it stands.
    """

    def __init__(self, columns: Mapping[str, AttributeColumn]) -> None:
        self._columns = columns

    def __call__(self, row: ScanRow) -> tuple[str, float | None, str]:
        """Return (sex `F`, `M`, `O` or empty; age in years or None; view or empty)."""
        view = self._value(row, "view").upper()
        return (
            sex_code(self._value(row, "sex")),
            years(self._value(row, "age")),
            view if view in VIEWS else "",
        )

    def _value(self, row: ScanRow, name: str) -> str:
        rule = self._columns.get(name)
        if rule is None:
            return ""
        found = row.text(rule.spellings[0])
        return rule.values.get(found, found)


def years(text: str) -> float | None:
    """Return an age in years, written as a number or as DICOM has it (`058Y`, `006M`), else None."""
    match = _AGE_STRING.fullmatch(text.upper())
    if match:
        return int(match.group(1)) / _A_YEAR[match.group(2)]
    return number_of(text, None)


def number_of(text: str, default: float | None) -> float | None:
    """Return a finite number, `default` for an empty cell or anything else."""
    try:
        found = float(text) if text else default
    except ValueError:
        return default
    return found if found is None or math.isfinite(found) else default
