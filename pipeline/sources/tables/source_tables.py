"""Tables of a source: only the columns that are used are read, and joined tables are added."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from pipeline.manifest import Manifest
from pipeline.manifest.kinds.scan_rules import ScanRules
from pipeline.manifest.table_rules import Join, TableRule
from pipeline.sources.tables.rows import key_finder
from pipeline.sources.tables.tables import SEVERAL, ScanTable


def load_table(manifest: Manifest, source: ScanRules, at: str, state: hashlib._Hash) -> ScanTable | None:
    """Return the source's table with its joins, or None if the source has none.

    Args:
        manifest: the manifest, for its paths.
        source: the source's rules.
        at: manifest key of the source, for error messages.
        state: digest that is updated with the files' content.

    Raises:
        ManifestError: a variable is not set, or a column is missing.
        DataError: a table cannot be read.
    """
    rule = source.table
    if rule is None:
        return None
    at = f"{at}.table"
    joined = {name for join in rule.joins for name in join.new_columns()}
    pooled = set(source.label.table_columns)
    own = [spellings for spellings in source.table_columns() if spellings[0] not in joined]
    own += [(ours,) for join in rule.joins for ours in (join.keys or {}).values() if ours not in joined]
    key_of = key_finder(rule) if rule.pattern is not None else None
    table = _open(manifest, rule, (rule.file_column,), own, at=at, pooled=pooled, state=state, key_of=key_of)
    for join in rule.joins:
        columns = join.new_columns()
        keys = tuple(join.keys) if join.keys else (join.file_column or "file",)
        pooled_here = {column for name, column in columns.items() if name in pooled}
        other = _open(
            manifest, join, keys, [(name,) for name in columns.values()], at=f"{at}.joins",
            pooled=pooled_here, state=state, key_of=None if join.keys else key_of,
        )  # fmt: skip
        table.join(other, columns, tuple(join.keys.values()) if join.keys else ())
    return table


def _open(
    manifest: Manifest,
    rule: TableRule | Join,
    keys: tuple[str, ...],
    columns: list[tuple[str, ...]],
    *,
    at: str,
    pooled: set[str],
    state: hashlib._Hash,
    key_of: Callable[[str], str] | None,
) -> ScanTable:
    paths = [manifest.resolve(path, f"{at}.path") for path in rule.paths]
    for path in paths:
        _hash_table(path, state)
    return ScanTable(
        paths,
        keys,
        columns,
        field=at,
        encoding=rule.encoding,
        delimiter=rule.delimiter,
        strip_prefix=rule.strip_prefix,
        key_of=key_of,
        repeated=rule.repeated,
        pooled=pooled,
        between=SEVERAL,
    )


def load_patients(manifest: Manifest, source: ScanRules, at: str, state: hashlib._Hash) -> ScanTable | None:
    """Return the separate patient table, or None if there is none; see `load_table`."""
    rule = source.patient
    if rule is None or rule.table is None:
        return None
    path = manifest.resolve(rule.table, f"{at}.patient.table")
    _hash_table(path, state)
    return ScanTable(path, rule.keys, (rule.column or "",), field=f"{at}.patient.table")


def _hash_table(path: Path, state: hashlib._Hash) -> None:
    if path.is_file():
        with path.open("rb") as stream:
            state.update(hashlib.file_digest(stream, "sha256").digest())
