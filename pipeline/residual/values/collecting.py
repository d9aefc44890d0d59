"""Collection of the identifying values of a source: all files of a manifest, or all files in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.errors import DataError, ScanRefusedError
from pipeline.manifest import Manifest
from pipeline.manifest.kinds.table import KINDS, named
from pipeline.progress import track
from pipeline.residual.allowlist import Harmless
from pipeline.residual.search.missed import JSON, NO_CONTENT, Missed
from pipeline.residual.search.own_texts import OwnTexts
from pipeline.residual.search.texts import text_pieces
from pipeline.residual.values.file_values import TABLE, name_of_file
from pipeline.residual.values.source_values import (
    FILE_NAME,
    IDENTIFIER,
    FileValues,
    Piece,
    SourceFacts,
    SourceValues,
)
from pipeline.sources.base import OWN_PATIENT, ReadRule, ScanTask
from pipeline.sources.stores import drop_unpacked, kind_of, open_store

_PLACES = {"path", "table", "pattern", "url", "md5", "verify_images"}
"""Keys of a manifest whose text is a path or a rule and does not describe the data set."""

_MAX_LABELS = 1000
_MAX_SHORT_ROOT = 12
_LISTED = {"folder", "zip", "tar", "dicomdir"}
_BESIDE = (TABLE, JSON)
"""Kinds of other files that may be next to the scans of a folder without a manifest."""


def collect_values(source: Manifest | Path, *, phantom_patients: int | None = None) -> SourceValues:
    """Read every file of a source and return its identifying values.

    Args:
        source: loaded manifest (all its sources are read, with archives and servers), or folder, archive or
            DICOMDIR of scans.
        phantom_patients: number of patients of a phantom source, instead of the number in the manifest.

    Returns:
        The values, which the caller closes.

    Raises:
        ManifestError: a path has a variable that is not set, or a table lacks a column.
        DataError: a folder, table or archive is missing, or has more values than can be searched.
    """
    if isinstance(source, Manifest):
        return _of_manifest(source, phantom_patients)
    return _of_place(source)


def _of_manifest(manifest: Manifest, phantom_patients: int | None) -> SourceValues:
    from pipeline.sources.listing import list_scans

    listing = list_scans(manifest, phantom_patients=phantom_patients)
    labels = {task.label for task in listing.tasks if task.label}
    said = list(_said(manifest.model_dump(mode="json")))
    classes = labels if len(labels) <= _MAX_LABELS else set()
    values = SourceValues(Harmless(said, {manifest.name, *classes}), OwnTexts(said))
    missed, rules = Missed(), {task.rule for task in listing.tasks}
    with track("collect values", len(listing.tasks), unit="files") as progress:
        for task in listing.tasks:
            _add_task(values, task, missed)
            progress.update(1)
    _add_names(values, rules, missed)
    _finish(values, rules, missed, len(listing.tasks))
    return values


def _add_names(values: SourceValues, rules: set[ReadRule], missed: Missed) -> None:
    """Add the names of all files in the places of the scans, even of files that the manifest excludes."""
    places = {
        (rule.store, rule.root): rule for rule in sorted(rules, key=lambda rule: rule.prefix, reverse=True)
    }
    for rule in places.values():
        for entry in open_store(rule).entries() if rule.store in _LISTED else ():
            values.add(name_of_file(entry.name))
            missed.behind(entry, rule.prefix)


def _add_task(values: SourceValues, task: ScanTask, missed: Missed) -> None:
    values.add(_patients(task))
    kind = KINDS[task.rule.kind]
    if not kind.has_files:
        return
    values.add(name_of_file(task.name))
    if task.refusal in NO_CONTENT:
        return
    try:
        values.add(named(kind.values).pieces(open_store(task.rule).read(task.name)))
    except ScanRefusedError as error:
        missed.add(task.scan_name, error.problem)


def _patients(task: ScanTask) -> Iterator[Piece]:
    for patient in (task.patient, task.claimed):
        if patient and not patient.startswith(OWN_PATIENT):
            yield from text_pieces("patient of the manifest", patient, IDENTIFIER)


def _place(rule: ReadRule) -> Iterator[Piece]:
    if KINDS[rule.kind].has_files and len(rule.root) >= _MAX_SHORT_ROOT:
        yield Piece("place of the source", FILE_NAME, rule.root)


def _of_place(path: Path) -> SourceValues:
    """Read all files in a folder or an archive, with the reader that recognises the content of each."""
    path = path.absolute()
    rule = ReadRule("dicom", str(path), store=kind_of(path, field="--against"))
    values = SourceValues(Harmless())
    missed = Missed()
    count = _add_files(values, rule, missed)
    _finish(values, {rule}, missed, count)
    return values


def _add_files(values: SourceValues, rule: ReadRule, missed: Missed) -> int:
    """Read every file of a store, including hidden files, and return their number."""
    store = open_store(rule)
    entries = list(store.entries())
    with track("collect values", len(entries), unit="files") as progress:
        for entry in entries:
            values.add(name_of_file(entry.name))
            missed.behind(entry, rule.prefix)
            if entry.skipped not in NO_CONTENT:
                _add_content(values, store.read, entry.name, missed)
            progress.update(1)
    return len(entries)


def _add_content(values: SourceValues, read: Callable[[str], bytes], name: str, missed: Missed) -> None:
    try:
        data = read(name)
        reader = next((reader for reader in _readers() if reader.recognises(data, name)), None)
        if reader is not None:
            values.add(reader.pieces(data))
        else:
            missed.add(name, "neither DICOM, NIfTI, image nor table")
    except ScanRefusedError as error:
        missed.add(name, error.problem)


def _readers() -> Iterator[FileValues]:
    """Yield the readers of all kinds of files, and of tables."""
    yield from (named(kind.values) for kind in KINDS.values() if kind.values)
    yield from _BESIDE


def _said(body: object, key: str = "") -> Iterator[str]:
    """Yield the texts of a manifest that describe the data set: names, classes, columns, licence."""
    if isinstance(body, dict):
        for name, inner in body.items():
            if name not in _PLACES or isinstance(inner, dict):
                yield str(name)
                yield from _said(inner, str(name))
                if isinstance(inner, str):
                    yield f"{name} {inner}"
    elif isinstance(body, list):
        for inner in body:
            yield from _said(inner, key)
    elif isinstance(body, str) and key not in _PLACES:
        yield body


def _finish(values: SourceValues, rules: set[ReadRule], missed: Missed, files: int) -> None:
    drop_unpacked(rules)
    values.facts = SourceFacts(files, dict(missed.counts.most_common()), missed.unread)
    if not len(values):
        values.close()
        raise DataError(
            "no identifying value was found in the source, so that nothing can be verified",
            field="--against",
            remedy="Name the manifest, or the folder, that holds the scans with their headers.",
        )
    for rule in rules:
        values.add(_place(rule))
