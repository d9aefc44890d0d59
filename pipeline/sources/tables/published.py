"""A scan's part in each published split: from a column, lists, a folder or a pattern."""

from __future__ import annotations

import hashlib
import io
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import DataError
from pipeline.manifest import Manifest
from pipeline.manifest.label_rules import PublishedRule
from pipeline.manifest.rules import NAME_PATTERN
from pipeline.sources.tables.rows import ScanRow, file_key, folder_of
from pipeline.sources.tables.tables import CONFLICT, DISAGREE

MAX_LIST_BYTES = 2**30
MAX_LINE = 4096

IN_SEVERAL = "in several parts of a published split"
NOT_A_NAME = "part of a published split is not a valid name"

_NAME = re.compile(NAME_PATTERN)


class PublishedParts:
    """Function from a scan's row to its parts in the published splits of a source.

    Args:
        manifest: the manifest, for its paths.
        rules: the published splits of the source, in order.
        at: manifest key of the source, for error messages.
        state: digest that is updated with the lists' content.

    Raises:
        DataError: a list is missing, too large or not text.
    """

    def __init__(
        self, manifest: Manifest, rules: Mapping[str, PublishedRule], at: str, state: hashlib._Hash
    ) -> None:
        self._rules = tuple(rules.values())
        self._patterns = [re.compile(rule.pattern) if rule.pattern else None for rule in self._rules]
        self._lists = [
            _load_lists(manifest, rule, f"{at}.published_splits.{name}.lists", state)
            for name, rule in rules.items()
        ]
        self._kept: dict[tuple[str, ...], tuple[str, ...]] = {}

    def __call__(self, row: ScanRow) -> tuple[tuple[str, ...], str]:
        """Return the part in each published split (empty if none), and a reason of refusal (or empty)."""
        found, refusal = [], ""
        for number, rule in enumerate(self._rules):
            part = self._part(number, rule, row)
            if part in {CONFLICT, IN_SEVERAL}:
                refusal, part = (DISAGREE if part == CONFLICT else IN_SEVERAL), ""
            part = rule.values.get(part, part)
            if part and not _NAME.fullmatch(part):
                refusal, part = NOT_A_NAME, ""
            found.append(sys.intern(part))
        parts = tuple(found)
        # There are few combinations, so all scans share a few tuples.
        return self._kept.setdefault(parts, parts), refusal

    def _part(self, number: int, rule: PublishedRule, row: ScanRow) -> str:
        if rule.value is not None:
            return rule.value
        if rule.column is not None:
            return row.cell(rule.column) or ""
        if rule.lists is not None:
            return self._lists[number].get(file_key(row.name, rule.match), "")
        pattern = self._patterns[number]
        if pattern is not None:
            match = pattern.search(row.name)
            return (match.group(1) or "") if match else ""
        return folder_of(row.name, rule.folder or 0)


def _load_lists(manifest: Manifest, rule: PublishedRule, at: str, state: hashlib._Hash) -> dict[str, str]:
    """Return file -> part for all lists of a published split."""
    found: dict[str, str] = {}
    for part, text in (rule.lists or {}).items():
        path = manifest.resolve(text, at)
        if not path.is_file():
            raise DataError("the list does not exist", field=at, value=str(path), remedy="Correct its path.")
        for name in _names(path, at, state):
            if found.setdefault(name, part) != part:
                found[name] = IN_SEVERAL
    return found


def _names(path: Path, at: str, state: hashlib._Hash) -> list[str]:
    if path.stat().st_size > MAX_LIST_BYTES:
        raise DataError(f"the list is larger than {MAX_LIST_BYTES} bytes", field=at, remedy="Split it.")
    names = []
    try:
        with path.open("rb") as raw:
            state.update(hashlib.file_digest(raw, "sha256").digest())
            raw.seek(0)
            with io.TextIOWrapper(raw, encoding="utf-8-sig") as stream:
                while line := stream.readline(MAX_LINE):
                    if len(line) == MAX_LINE or "\0" in line:
                        raise DataError("not a list of file names", field=at, remedy="Correct the list.")
                    if line.strip():
                        names.append(line.strip())
    except (OSError, UnicodeError) as error:
        raise DataError("not a readable UTF-8 list", field=at, remedy="Save it as UTF-8.") from error
    return names
