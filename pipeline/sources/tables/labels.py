"""Class and findings of a scan from its row, or the reason of refusal."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence

from pipeline.manifest.label_rules import LIST, LabelRule
from pipeline.sources.tables.rows import ScanRow, folder_of
from pipeline.sources.tables.tables import CONFLICT, DISAGREE, SEVERAL

ABSENT, PRESENT, UNCERTAIN = range(3)
"""States of a finding, one byte each in `ScanTask.findings`."""

NO_LABEL = "no label"
NOT_LISTED = "label not listed in the manifest"
UNREADABLE = "label cell is not a list"
ONLY_UNCERTAIN = "label uncertain"
NOT_A_CLASS = "none of the scan's findings is a class"
SEVERAL_FINDINGS = "several findings"

_ITEM = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_IS_LIST = re.compile(rf"\[\s*(?:(?:{_ITEM})\s*(?:,\s*(?:{_ITEM})\s*)*,?\s*)?\]")

Verdict = tuple[str, bytes, str]
"""(class name, states of the findings, reason of refusal); the class is empty if there is a reason."""


class Labeller:
    """Function from a scan's row to its class and findings, by a manifest's label rule.

    Args:
        rule: the rule.
        ranked: the findings that are classes, in descending priority.
    """

    def __init__(self, rule: LabelRule, ranked: Sequence[str]) -> None:
        self.rule = rule
        self._pattern = re.compile(rule.pattern) if rule.pattern else None
        self._chooser = ClassChooser(rule.findings, rule.none, ranked, several=rule.several)
        cells = rule.cells
        self._states = {
            **dict.fromkeys(cells.absent, ABSENT),
            **dict.fromkeys(cells.present, PRESENT),
            **dict.fromkeys(cells.uncertain, UNCERTAIN),
        }
        named = (rule.columns or rule.values or {}).values()
        self._has_none_cell = rule.none is not None and rule.none in named

    def __call__(self, row: ScanRow) -> Verdict:
        """Return class, findings and reason of refusal of a scan."""
        if self.rule.columns is not None:
            return self._from_columns(row, self.rule.columns)
        if self.rule.separator is not None:
            return self._from_cell(row, self.rule.separator)
        label, refusal = self._single(row)
        return label, b"", refusal

    def _single(self, row: ScanRow) -> tuple[str, str]:
        rule = self.rule
        if rule.value is not None:
            return rule.value, ""
        if rule.column is not None:
            found = row.cell(rule.column) or ""
            if found == CONFLICT:
                return "", DISAGREE
        elif self._pattern is not None:
            match = self._pattern.search(row.name)
            found = (match.group(1) or "") if match else ""
        else:
            found = folder_of(row.name, rule.folder or 0)
        if not found:
            return "", NO_LABEL
        if rule.values is not None:
            found = rule.values.get(found, "")
        return (sys.intern(found), "") if found else ("", NOT_LISTED)

    def _from_columns(self, row: ScanRow, columns: Mapping[str, str]) -> Verdict:
        states: dict[str, int] = {}
        for column, name in columns.items():
            cell = row.cell(column)
            if cell is None:
                return "", b"", NO_LABEL
            if cell == CONFLICT:
                return "", b"", DISAGREE
            known = [self._states.get(text) for text in cell.split(SEVERAL)]
            if None in known:
                return "", b"", NOT_LISTED
            states[name] = stronger([states.get(name, ABSENT), *known])  # type: ignore[list-item]
        has_none = states.pop(self.rule.none or "", ABSENT) == PRESENT
        if UNCERTAIN in states.values():
            if self.rule.uncertain == "refuse":
                return "", b"", ONLY_UNCERTAIN
            if self.rule.uncertain != "keep":
                settled = PRESENT if self.rule.uncertain == "present" else ABSENT
                states = {name: settled if state == UNCERTAIN else state for name, state in states.items()}
        if not self._has_none_cell:
            has_none = not any(states.values())
        return self._chooser.choose(states, has_none=has_none)

    def _from_cell(self, row: ScanRow, separator: str) -> Verdict:
        cell = row.cell(self.rule.column) or ""
        if cell == CONFLICT:
            return "", b"", DISAGREE
        texts: list[str] = []
        for part in cell.split(SEVERAL):
            items = list_items(part) if separator == LIST else part.split(separator)
            if items is None:
                return "", b"", UNREADABLE if part else NO_LABEL
            texts += [item.strip() for item in items if item.strip()]
        if not texts:
            return "", b"", NO_LABEL
        values = self.rule.values or {}
        names = [values.get(text, "") for text in texts]
        if "" in names and self.rule.unlisted == "refuse":
            return "", b"", NOT_LISTED
        states = {name: PRESENT for name in names if name and name != self.rule.none}
        # An ignored finding is a finding too, so only an explicit cell gives the class without findings.
        has_none = self._has_none_cell and self.rule.none in names
        return self._chooser.choose(states, has_none=has_none, has_ignored="" in names)


class ClassChooser:
    """Choice of a scan's single class from the states of its findings.

    Args:
        findings: names of the findings, in the order of the states in `ScanTask.findings`.
        none: class of a scan without findings, or None if there is no such class.
        ranked: the findings that are classes, in descending priority.
        several: treatment of several findings that are classes: choose the `first` in `ranked`, or `refuse`.
    """

    def __init__(
        self, findings: Sequence[str], none: str | None, ranked: Sequence[str], *, several: str
    ) -> None:
        self._findings, self._none, self._several = tuple(findings), none, several
        self._order = tuple(name for name in ranked if name in self._findings)
        self._kept: dict[bytes, bytes] = {}

    def choose(self, states: Mapping[str, int], *, has_none: bool, has_ignored: bool = False) -> Verdict:
        """Return class, findings and reason of refusal.

        Args:
            states: finding -> state; missing findings are absent.
            has_none: whether the scan gets the class `none` if no finding that is a class is present.
            has_ignored: whether the scan has findings that the manifest ignores.
        """
        packed = bytes(states.get(name, ABSENT) for name in self._findings)
        # There are few combinations, so a million scans share a few thousand objects.
        packed = self._kept.setdefault(packed, packed)
        present = [name for name in self._order if states.get(name) == PRESENT]
        if len(present) > 1 and self._several == "refuse":
            return "", packed, SEVERAL_FINDINGS
        if present:
            return present[0], packed, ""
        uncertain = any(states.get(name) == UNCERTAIN for name in self._order)
        if has_none and self._none is not None and not uncertain:
            return self._none, packed, ""
        if (has_ignored or PRESENT in packed) and not uncertain:
            return "", packed, NOT_A_CLASS
        return "", packed, ONLY_UNCERTAIN if UNCERTAIN in packed else NO_LABEL


def stronger(states: Sequence[int]) -> int:
    """Return the state of a finding with several cells: present before uncertain before absent."""
    for state in (PRESENT, UNCERTAIN):
        if state in states:
            return state
    return ABSENT


def list_items(cell: str) -> list[str] | None:
    """Return the texts of a list in Python notation without evaluating it; None if it is not such a list."""
    if not _IS_LIST.fullmatch(cell):
        return None
    return [re.sub(r"\\(.)", r"\1", item[1:-1]) for item in re.findall(_ITEM, cell)]
