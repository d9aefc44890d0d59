"""Which scans a folder holds, with label, patient and published split of each, before any is read."""

from __future__ import annotations

import fnmatch
import hashlib
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import DataError
from pipeline.manifest.model import FolderRule, Manifest, NiftiSource
from pipeline.sources.base import OWN_PATIENT, ReadRule, ScanTask, sex_code, source_prefix
from pipeline.sources.stores import Entry, kind_of, open_store
from pipeline.sources.tables import ScanTable

NO_PATIENT = "patient unknown"
"""Reason of refusal of a scan whose patient cannot be told: a wrong patient split would be a leak."""


@dataclass
class Listing:
    """What one or more sources hold.

    Attributes:
        tasks: every scan, in a fixed order.
        published: names of the published splits, matching `ScanTask.published`.
        has_patient_ids: whether every source knows its patients.
        notes: findings worth showing.
        findings: names of the findings, matching `ScanTask.findings`; empty where a scan has one label.
        fingerprint: digest over names, sizes and times of the files and the content of the tables.
    """

    tasks: list[ScanTask] = field(default_factory=list)
    published: tuple[str, ...] = ()
    has_patient_ids: bool = True
    notes: list[str] = field(default_factory=list)
    findings: tuple[str, ...] = ()
    fingerprint: str = ""


class _Row:
    """One file's cells, empty where the table has no such row or column."""

    def __init__(self, table: ScanTable | None, name: str) -> None:
        self._table, self.name = table, name
        self.known = table is None or name in table.rows

    def cell(self, column: str | None) -> str:
        return self._table.cell(self.name, column) if self._table is not None and column else ""


def list_folder(manifest: Manifest, source: FolderRule, kind: str, number: int) -> Listing:
    """List the files of a DICOM, NIfTI or image folder as tasks, in sorted order of their names.

    Args:
        manifest: the manifest, for its paths and the kept test split.
        source: the folder's rules.
        kind: `dicom`, `nifti` or `images`.
        number: position of the source in the manifest.

    Raises:
        ManifestError: a variable is not set, a column is missing.
        DataError: the folder or a table cannot be read.
    """
    at = f"sources.{number}"
    root = manifest.resolve(source.path, f"{at}.path")
    state = hashlib.sha256()
    table = _load_table(manifest, source, at, state)
    patients = _load_patients(manifest, source, at, state)
    tag = source.patient.tag if source.patient and source.patient.tag else ""
    if tag:
        _check_keyword(tag, at)
    projection, axis = (source.projection, source.axis) if isinstance(source, NiftiSource) else ("none", 1)
    prefix = source_prefix(number)
    rule = ReadRule(
        kind,
        str(root),
        patient_tag=tag,
        projection=projection,
        axis=axis,
        prefix=prefix,
        store=kind_of(root, field=f"{at}.path"),
    )
    included = [re.compile(_pattern(text)).fullmatch for text in source.include]
    listing = Listing(published=tuple(source.published_splits), has_patient_ids=source.patient is not None)
    seen: set[str] = set()
    for entry in open_store(rule).entries():
        if not any(match(entry.name) for match in included):
            continue
        state.update(f"{entry.name}\0{entry.size}\0{entry.stamp}\n".encode("utf-8", "surrogatepass"))
        if table is not None:
            seen.add(entry.name)
        listing.tasks.append(
            _task(manifest, source, rule, _Row(table, entry.name), patients=patients, entry=entry)
        )
    for name in table.rows if table is not None else ():
        if name not in seen and any(match(name) for match in included):
            listing.tasks.append(_task(manifest, source, rule, _Row(table, name), patients=patients))
    if not listing.tasks:
        raise DataError(
            "holds no file to read", field=f"{at}.path", value=str(root), remedy="Correct path or include."
        )
    listing.fingerprint = state.hexdigest()
    return listing


def _task(
    manifest: Manifest,
    source: FolderRule,
    rule: ReadRule,
    row: _Row,
    *,
    patients: ScanTable | None,
    entry: Entry | None = None,
) -> ScanTask:
    name = row.name
    published = tuple(sys.intern(row.cell(column)) for column in source.published_splits.values())
    label, refusal = _label(source, name, row)
    if not row.known:
        refusal = "not in the table"
    patient: str | None = OWN_PATIENT + rule.prefix + name
    if source.patient is not None:
        patient = _patient(source, name, row, patients)
        if patient is None and not source.patient.tag:
            kept = manifest.split.keep_test
            place = tuple(source.published_splits).index(kept) if kept in source.published_splits else -1
            in_test = place >= 0 and published[place] == manifest.split.test_part
            lenient = source.patient.unmatched == "own" or (
                source.patient.unmatched == "own_in_test" and in_test
            )
            patient = OWN_PATIENT + rule.prefix + name if lenient else None
            refusal = refusal or ("" if lenient else NO_PATIENT)
    aspect = 1.0
    if source.pixel_aspect is not None:
        found = _number(row.cell(source.pixel_aspect.column), source.pixel_aspect.missing)
        if found is None or not 0.1 < found < 10:
            refusal = refusal or "pixel aspect unknown or absurd"
        else:
            aspect = found
    return ScanTask(
        rule=rule,
        name=name,
        label=label,
        patient=patient,
        published=published,
        pixel_aspect=aspect,
        sex=sex_code(row.cell(source.attributes.sex)),
        age_years=_number(row.cell(source.attributes.age), None),
        refusal=(entry.refusal if entry else "file missing") or refusal,
        stamp=f"{entry.size}:{entry.stamp}" if entry else "",
    )


def _label(source: FolderRule, name: str, row: _Row) -> tuple[str, str]:
    """Return (class name, reason of refusal); one of them is empty."""
    if source.label.column is not None:
        found = row.cell(source.label.column)
    else:
        folders = name.split("/")[:-1]
        position = source.label.folder or 0
        found = folders[position] if -len(folders) <= position < len(folders) else ""
    if not found:
        return "", "no label"
    if source.label.values is not None:
        found = source.label.values.get(found, "")
        return (sys.intern(found), "") if found else ("", "label not listed in the manifest")
    return sys.intern(found), ""


def _patient(source: FolderRule, name: str, row: _Row, patients: ScanTable | None) -> str | None:
    rule = source.patient
    if rule is None or rule.tag:
        return None
    if patients is not None:
        found = patients.cell(name, rule.column or "")
    elif rule.pattern is not None:
        match = re.search(rule.pattern, name)
        found = (match.group(1) or "") if match else ""
    else:
        found = row.cell(rule.column)
    return sys.intern(found) if found else None


def _load_table(manifest: Manifest, source: FolderRule, at: str, state: hashlib._Hash) -> ScanTable | None:
    rule = source.table
    if rule is None:
        return None
    wanted = [
        source.label.column,
        source.attributes.sex,
        source.attributes.age,
        *source.published_splits.values(),
    ]
    wanted += [source.pixel_aspect.column if source.pixel_aspect else None]
    wanted += [source.patient.column if source.patient and not source.patient.table else None]
    joined = {name for join in rule.joins for name in join.columns}
    own = [name for name in wanted if name is not None and name not in joined]
    path = manifest.resolve(rule.path, f"{at}.table.path")
    table = ScanTable(path, (rule.file_column,), own, field=f"{at}.table")
    _hash_table(path, state)
    for join in rule.joins:
        path = manifest.resolve(join.path, f"{at}.table.joins")
        other = ScanTable(path, (join.file_column,), tuple(join.columns.values()), field=f"{at}.table.joins")
        _hash_table(path, state)
        table.join(other, tuple(join.columns))
    return table


def _load_patients(manifest: Manifest, source: FolderRule, at: str, state: hashlib._Hash) -> ScanTable | None:
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


def _check_keyword(tag: str, at: str) -> None:
    from pydicom.datadict import tag_for_keyword

    from pipeline.errors import ManifestError

    if tag_for_keyword(tag) is None:
        raise ManifestError(
            "not a DICOM keyword",
            field=f"{at}.patient.tag",
            value=tag,
            remedy="Use a keyword such as PatientID.",
        )


def _number(text: str, default: float | None) -> float | None:
    try:
        return float(text) if text else default
    except ValueError:
        return default


def _pattern(text: str) -> str:
    """Translate a glob with `**` over folders into a regular expression over `/`-separated names."""
    pieces = text.split("**/")
    return "(?:.*/)?".join(
        fnmatch.translate(piece).removeprefix("(?s:").removesuffix(r")\Z") for piece in pieces
    )
