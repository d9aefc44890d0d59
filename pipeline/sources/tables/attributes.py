"""Attributes of a scan from columns of the table, converted to the values that are stored."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.manifest.rules import AttributeColumn
from pipeline.scan_attributes import SCAN_ATTRIBUTES
from pipeline.sources.tables.rows import ScanRow


class Attributes:
    """Function from a scan's row to its attributes.

    Args:
        columns: key of an attribute in the manifest -> rule for its column.
    """

    def __init__(self, columns: Mapping[str, AttributeColumn]) -> None:
        self._columns = columns
        self._kept: dict[tuple[str, ...], tuple[str, ...]] = {}

    def __call__(self, row: ScanRow) -> tuple[str, ...]:
        """Return a value for each of `SCAN_ATTRIBUTES`, empty if unknown."""
        found = tuple(
            attribute.from_cell(self._value(row, attribute.key)) for attribute in SCAN_ATTRIBUTES.values()
        )
        # There are few combinations, so a million scans share a few hundred tuples.
        return self._kept.setdefault(found, found)

    def _value(self, row: ScanRow, key: str) -> str:
        rule = self._columns.get(key)
        if rule is None:
            return ""
        found = row.text(rule.spellings[0])
        return rule.values.get(found, found)
