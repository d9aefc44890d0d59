"""Collects the identifying values of a source: all files of a manifest, or all files below a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import DataError, ScanRefusedError
from pipeline.manifest import Manifest
from pipeline.progress import track
from pipeline.residual.allowlist import Harmless
from pipeline.residual.search.missed import NO_CONTENT, Missed, json_pieces
from pipeline.residual.search.own_texts import OwnTexts
from pipeline.residual.search.texts import text_pieces
from pipeline.residual.values.dicom_values import dicom_pieces, looks_headless
from pipeline.residual.values.file_values import image_pieces, name_of_file, nifti_pieces, table_pieces
from pipeline.residual.values.source_values import FILE_NAME, IDENTIFIER, Piece, SourceFacts, SourceValues
from pipeline.sources.base import OWN_PATIENT, ReadRule, ScanTask
from pipeline.sources.stores import drop_unpacked, kind_of, open_store

_PLACES = {"path", "table", "pattern", "url", "md5", "verify_images"}
"""Keys of a manifest whose text is a place or a rule, not something that is said of the data set."""

_MAX_LABELS = 1000
_MAX_SHORT_ROOT = 12
_ROWS = "medmnist"
_LISTED = {"folder", "zip", "tar", "dicomdir"}
_READERS = {
    "dicom": dicom_pieces,
    "nifti": nifti_pieces,
    "images": image_pieces,
    "table": table_pieces,
    "json": json_pieces,
}
_IMAGE_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*")


def collect_values(source: Manifest | Path, *, phantom_patients: int | None = None) -> SourceValues:
    """Read every file of a source and return its identifying values.

    Args:
        source: a loaded manifest (all its sources are read, archives and servers too), or a folder, an
            archive or a DICOMDIR of scans.
        phantom_patients: number of patients of a phantom source, instead of the manifest's.

    Returns:
        The values; the caller closes them.

    Raises:
        ManifestError: a path has a variable that is not set, or a table lacks a column.
        DataError: a folder, table or archive is missing, or holds more values than can be searched.
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
    """Take the names of all that lies where the scans lie, whatever of it the manifest includes."""
    places = {
        (rule.store, rule.root): rule for rule in sorted(rules, key=lambda rule: rule.prefix, reverse=True)
    }
    for rule in places.values():
        for entry in open_store(rule).entries() if rule.store in _LISTED else ():
            values.add(name_of_file(entry.name))
            missed.behind(entry, rule.prefix)


def _add_task(values: SourceValues, task: ScanTask, missed: Missed) -> None:
    values.add(_patients(task))
    if task.rule.kind == _ROWS:
        return
    values.add(name_of_file(task.name))
    reader = _READERS.get(task.rule.kind)
    if reader is None or task.refusal in NO_CONTENT:
        return
    try:
        values.add(reader(open_store(task.rule).read(task.name)))
    except ScanRefusedError as error:
        missed.add(task.scan_name, error.problem)


def _patients(task: ScanTask) -> Iterator[Piece]:
    for patient in (task.patient, task.claimed):
        if patient and not patient.startswith(OWN_PATIENT):
            yield from text_pieces("patient of the manifest", patient, IDENTIFIER)


def _place(rule: ReadRule) -> Iterator[Piece]:
    if rule.kind != _ROWS and len(rule.root) >= _MAX_SHORT_ROOT:
        yield Piece("place of the source", FILE_NAME, rule.root)


def _of_place(path: Path) -> SourceValues:
    """Read all files below a folder, or in an archive, each by what its content says it is."""
    path = path.absolute()
    rule = ReadRule("dicom", str(path), store=kind_of(path, field="--against"))
    values = SourceValues(Harmless())
    missed = Missed()
    count = _add_files(values, rule, missed)
    _finish(values, {rule}, missed, count)
    return values


def _add_files(values: SourceValues, rule: ReadRule, missed: Missed) -> int:
    """Read every file of a store, hidden ones too, and return their number."""
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


def _add_content(values: SourceValues, read: Any, name: str, missed: Missed) -> None:
    try:
        data: bytes = read(name)
        kind = _kind(data, name)
        if kind:
            values.add(_READERS[kind](data))
        else:
            missed.add(name, "neither DICOM, NIfTI, image nor table")
    except ScanRefusedError as error:
        missed.add(name, error.problem)


def _kind(data: bytes, name: str) -> str:
    if data[128:132] == b"DICM":
        return "dicom"
    lower = name.lower()
    if lower.endswith((".nii", ".nii.gz")):
        return "nifti"
    if data.startswith(_IMAGE_MAGIC):
        return "images"
    if lower.endswith((".csv", ".tsv")):
        return "table"
    if lower.endswith(".json"):
        return "json"
    return "dicom" if looks_headless(data) else ""


def _said(body: object, key: str = "") -> Iterator[str]:
    """Yield the texts by which a manifest describes the data set: names, classes, columns, licence."""
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
