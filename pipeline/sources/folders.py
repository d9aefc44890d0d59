"""Listing of the scans of a source with files: label, patient and published splits; no pixels are read."""

from __future__ import annotations

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import DataError
from pipeline.manifest import Manifest
from pipeline.manifest.kinds.scan_rules import FolderRule, ScanRules
from pipeline.scan_attributes import number_of
from pipeline.sources.base import OWN_PATIENT, ReadRule, ScanTask
from pipeline.sources.included import matcher, truly_unread
from pipeline.sources.read_rules import read_rule
from pipeline.sources.stores import Entry, open_store
from pipeline.sources.tables.attributes import Attributes
from pipeline.sources.tables.labels import Labeller
from pipeline.sources.tables.patient_ids import STAND_IN, crowded, may_name_nobody, names_nobody
from pipeline.sources.tables.published import PublishedParts
from pipeline.sources.tables.rows import ScanRow, key_finder
from pipeline.sources.tables.source_tables import load_patients, load_table
from pipeline.sources.tables.tables import CONFLICT, DISAGREE, ScanTable
from pipeline.sources.unread import UNMATCHED, unread_notes
from pipeline.storage import digest_of

NO_PATIENT = "patient unknown"
"""Reason of refusal of a scan without a patient: a split by patient could otherwise leak."""

NOT_IN_TABLE = "not in the table"
SEVERAL_FILES = "a row of the table matches several files"
NO_FILE = "file missing"


@dataclass
class Listing:
    """Scans of one or more sources.

    Attributes:
        tasks: every scan, in a fixed order.
        published: names of the published splits, matching `ScanTask.published`.
        has_patient_ids: whether every source has patient ids.
        notes: notes for the user.
        findings: names of the findings, matching `ScanTask.findings`; empty if each scan has one label.
        fingerprint: digest of the names, sizes and times of the files, and of the content of the tables.
        unread: unique name (identifying) of each file without a task -> reason. The fingerprint excludes it,
            because it does not change the cohort.
    """

    tasks: list[ScanTask] = field(default_factory=list)
    published: tuple[str, ...] = ()
    has_patient_ids: bool = True
    notes: list[str] = field(default_factory=list)
    findings: tuple[str, ...] = ()
    fingerprint: str = ""
    unread: dict[str, str] = field(default_factory=dict)


def list_folder(manifest: Manifest, source: FolderRule, number: int, options: object = None) -> Listing:
    """List the files of a folder or archive as tasks, sorted by name.

    Args:
        manifest: the manifest, for its paths and the kept test split.
        source: the source's rules.
        number: position of the source in the manifest.
        options: options of the kind's reader.

    Raises:
        ManifestError: a variable is not set, or a column is missing.
        DataError: the folder or archive, a table or a list cannot be read, or there is no file to read.
    """
    at = f"sources.{number}"
    rule = read_rule(manifest, source, number, options)
    listing = list_entries(manifest, source, rule, number, open_store(rule).entries())
    if not listing.tasks:
        unread = "; ".join(unread_notes(listing.unread, None))
        raise DataError(
            "contains no file to read",
            field=f"{at}.path",
            value=rule.root,
            remedy="Correct path or include" + (f" ({unread})." if unread else "."),
        )
    listing.unread = truly_unread(manifest, source, Path(rule.root), rule.prefix, listing.unread)
    return listing


def list_entries(
    manifest: Manifest, source: ScanRules, rule: ReadRule, number: int, entries: Iterable[Entry]
) -> Listing:
    """Return the entries of a store as tasks, by the rules of a source; see `list_folder`.

    Args:
        manifest: the manifest, for its paths and the kept test split.
        source: the source's rules.
        rule: rule by which its scans are read.
        number: position of the source in the manifest.
        entries: the store's files, sorted by name.
    """
    maker = _TaskMaker(manifest, source, rule, f"sources.{number}")
    included = matcher(source.include)
    listing = Listing(
        published=tuple(source.published_splits),
        findings=source.label.findings,
        has_patient_ids=source.patient is not None,
    )
    wanted = _wanted(entries, included, rule.prefix, listing.unread)
    if not maker.by_path:
        wanted = maker.count_keys(wanted)
    for entry in wanted:
        maker.state.update(f"{entry.name}\0{entry.size}\0{entry.stamp}\n".encode("utf-8", "surrogatepass"))
        listing.tasks += filter(None, [maker.task(entry.name, entry)])
    for key in maker.keys_without_file():
        if not maker.by_path or included(key):
            listing.tasks += filter(None, [maker.task(key, None)])
    listing.tasks = maker.without_placeholders(listing.tasks)
    if source.patient is not None:
        own = sum((task.patient or "").startswith(OWN_PATIENT) and not task.refusal for task in listing.tasks)
        if own:
            listing.notes.append(f"{own} scans without a patient id count as one patient each (unmatched)")
    if maker.left_out:
        columns = ", ".join(source.select)
        listing.notes.append(f"{maker.left_out} scans are excluded by the manifest's `select` ({columns})")
    listing.fingerprint = maker.state.hexdigest()
    return listing


def _wanted(
    entries: Iterable[Entry], included: Callable[[str], bool], prefix: str, unread: dict[str, str]
) -> Iterable[Entry]:
    """Yield the entries that become tasks, also refused ones; add the others to `unread` with the reason."""
    for entry in entries:
        if included(entry.name) and (entry.refusal or not entry.skipped):
            yield entry
        else:
            unread[prefix + entry.name] = entry.skipped or UNMATCHED


class _TaskMaker:
    """Makes the tasks of one source from names and tables.

    Attributes:
        state: digest of everything that the tasks depend on.
        by_path: whether rows of the table identify their files by path.
        left_out: number of scans excluded by `select`.
    """

    def __init__(self, manifest: Manifest, source: ScanRules, rule: ReadRule, at: str) -> None:
        self.state = hashlib.sha256()
        self.by_path = source.table is None or source.table.by_path
        self._key_of = key_finder(source.table)
        self.left_out = 0
        self._doubtful: set[str] = set()
        self._source, self._rule, self._at = source, rule, at
        self._table = load_table(manifest, source, at, self.state)
        self._patients = load_patients(manifest, source, at, self.state)
        self._published = PublishedParts(manifest, source.published(), at, self.state)
        self._labeller = Labeller(source.label, manifest.ranked)
        self._attributes = Attributes(source.attributes.columns())
        self._find_patient = _patient_finder(source, self._patients)
        self._seen: set[str] = set()
        self._several: set[str] = set()
        kept = manifest.split.keep_test
        self._test_place = (
            tuple(source.published_splits).index(kept) if kept in source.published_splits else -1
        )
        self._test_part = manifest.split.test_part

    def count_keys(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return the entries, after counting the files that match each row of the table."""
        found = list(entries)
        counts = Counter(self._key_of(entry.name) for entry in found)
        self._several = {key for key, count in counts.items() if count > 1}
        return found

    def keys_without_file(self) -> list[str]:
        """Return the keys of the rows for which `task` got no file."""
        return [key for key in self._table.rows if key not in self._seen] if self._table else []

    def task(self, name: str, entry: Entry | None) -> ScanTask | None:
        """Return the task of a file, or of a row without a file (`entry` is None); None if not selected."""
        key = self._key_of(name) if entry else name
        if self._table is not None:
            self._seen.add(key)
        row = ScanRow(self._table, name, key)
        refusals = [entry.refusal if entry else NO_FILE]
        refusals.append("" if row.known else NOT_IN_TABLE)
        refusals.append(SEVERAL_FILES if key in self._several and self._table is not None else "")
        if row.known and not self._selected(row, refusals):
            self.left_out += 1
            return None
        label, findings, unlabelled = self._labeller(row)
        published, unsplit = self._published(row)
        patient, unknown = self._patient(row, published)
        aspect, squeezed = self._aspect(row)
        return ScanTask(
            rule=self._rule,
            name=name,
            label=label,
            patient=patient,
            published=published,
            pixel_aspect=aspect,
            refusal=next(filter(None, [*refusals, unlabelled, unsplit, unknown, squeezed]), ""),
            stamp=f"{entry.size}:{entry.stamp}" if entry else "",
            attributes=self._attributes(row),
            findings=findings,
        )

    def _selected(self, row: ScanRow, refusals: list[str]) -> bool:
        for column, values in self._source.select.items():
            cell = row.cell(column)
            if cell == CONFLICT:
                refusals.append(DISAGREE)
            elif cell not in values:
                return False
        return True

    def without_placeholders(self, tasks: list[ScanTask]) -> list[ScanTask]:
        """Return the tasks, with doubtful ids (`0`, `TEST`) that have too many scans treated as missing."""
        if not self._doubtful:
            return tasks
        scans = Counter(task.patient for task in tasks if task.patient is not None and not task.refusal)
        placeholders = crowded(scans, self._doubtful)
        return [self._without_id(task) if task.patient in placeholders else task for task in tasks]

    def _without_id(self, task: ScanTask) -> ScanTask:
        patient, refusal = self._no_patient(task.name, task.published, STAND_IN)
        return replace(task, patient=patient, refusal=task.refusal or refusal)

    def _patient(self, row: ScanRow, published: tuple[str, ...]) -> tuple[str | None, str]:
        rule = self._source.patient
        if rule is None:
            return self._own(row.name), ""
        if rule.tag:
            return None, ""
        found = self._find_patient(row)
        if found == CONFLICT:
            return None, DISAGREE
        if names_nobody(found):
            return self._no_patient(row.name, published, STAND_IN if found else NO_PATIENT)
        patient = sys.intern(rule.prefix + found)
        if patient not in self._doubtful and may_name_nobody(found):
            self._doubtful.add(patient)
        return patient, ""

    def _no_patient(self, name: str, published: tuple[str, ...], reason: str) -> tuple[str | None, str]:
        """Return patient and refusal of a scan that has no patient id, for this reason."""
        unmatched = self._source.patient.unmatched if self._source.patient else "own"
        in_test = self._test_place >= 0 and published[self._test_place] == self._test_part
        lenient = unmatched == "own" or (unmatched == "own_in_test" and in_test)
        return (self._own(name), "") if lenient else (None, reason)

    def _own(self, name: str) -> str:
        return OWN_PATIENT + self._rule.prefix + name

    def _aspect(self, row: ScanRow) -> tuple[float, str]:
        rule = self._source.pixel_aspect
        if rule is None:
            return 1.0, ""
        if row.cell(rule.column) == CONFLICT:
            return 1.0, DISAGREE
        found = number_of(row.text(rule.column), rule.missing)
        if found is None or not 0.1 < found < 10:
            return 1.0, "pixel aspect unknown or implausible"
        return found, ""


def _patient_finder(source: ScanRules, patients: ScanTable | None) -> Callable[[ScanRow], str]:
    rule = source.patient
    if rule is None:
        return lambda row: ""
    if patients is not None:
        return lambda row: patients.cell(row.name, rule.column or "") or ""
    if rule.pattern is not None:
        pattern = re.compile(rule.pattern)

        def found(row: ScanRow) -> str:
            match = pattern.search(row.name)
            return (match.group(1) or "") if match else ""

        return found
    return lambda row: row.cell(rule.column) or ""


def merge(parts: Iterable[Listing]) -> Listing:
    """Concatenate several listings; the result has the published splits of all of them."""
    parts = list(parts)
    if len(parts) == 1:
        return parts[0]
    names = tuple(dict.fromkeys(name for part in parts for name in part.published))
    whole = Listing(
        published=names,
        findings=parts[0].findings,
        has_patient_ids=all(part.has_patient_ids for part in parts),
    )
    for part in parts:
        whole.notes += part.notes
        whole.unread.update(part.unread)
        if part.published == names:
            whole.tasks += part.tasks
            continue
        for task in part.tasks:
            known = dict(zip(part.published, task.published, strict=False))
            whole.tasks.append(replace(task, published=tuple(known.get(name, "") for name in names)))
    whole.fingerprint = digest_of([part.fingerprint for part in parts])
    return whole
