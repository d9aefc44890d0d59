"""The phantom cohort on disk: DICOM and NIfTI files under identifying names, and the table of labels."""

from __future__ import annotations

import csv
import io
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import DataError, OutputExistsError
from pipeline.phantom.anatomy import demographics
from pipeline.phantom.headers import dicom_bytes, nifti_bytes
from pipeline.phantom.identity import (
    ImageIdentity,
    PatientIdentity,
    identify_image,
    identify_patient,
    planted,
)
from pipeline.phantom.render import render_view
from pipeline.phantom.settings import (
    CLASSES,
    FINDINGS,
    PatientPlan,
    PhantomIndex,
    PhantomSettings,
    plan_patient,
)
from pipeline.progress import Progress
from pipeline.storage import read_json, storage_errors, write_json, write_text

MARKER = "phantom.json"
LABELS = "labels.csv"
COLUMNS = ("file", "patient_id", "label", "sex", "age")
_PARTIAL = ".partial"


class _Entry(NamedTuple):
    """One file of the cohort before it is rendered."""

    plan: PatientPlan
    patient: PatientIdentity
    image: ImageIdentity
    number: int
    file: str


def write_phantom_cohort(
    folder: Path, settings: PhantomSettings, progress: Progress | None = None
) -> PhantomIndex:
    """Write a phantom cohort, or finish an interrupted one; a finished cohort is reused.

    Files are written atomically, and each depends on the seed, the patient and the image alone. An
    interrupted run therefore resumes at the first missing file and ends with the same bytes. The marker
    `phantom.json` is set to `complete` last.

    Args:
        folder: output folder, with `dicom/`, `nifti/`, `labels.csv`, `phantom.json`.
        settings: settings of the cohort.
        progress: called for each image, written or found.

    Returns:
        The contents of the folder.

    Raises:
        OutputExistsError: the folder holds something other than this cohort.
        StorageError: the disk is full or cannot be written.
    """
    marker = folder / MARKER
    digest = settings.digest()
    if _begin(folder, settings, digest):
        return PhantomIndex(
            **read_json(marker, role="phantom cohort")["index"],
            folder=folder,
            labels_csv=folder / LABELS,
            reused=True,
        )
    rows: list[tuple[str, ...]] = []
    counts: Counter[str] = Counter()
    num_nifti = 0
    for entry in _entries(settings):
        path = folder / entry.file
        if not path.exists():
            _write_bytes(folder, path, _encode(entry, settings.image_size))
        sex, age = demographics(entry.plan.patient_seed)
        row = (entry.file, entry.patient.patient_id, entry.plan.label, sex, str(age))
        rows.append((*row, *_cells(entry.plan)) if settings.multiple else row)
        counts[entry.plan.label] += 1
        num_nifti += entry.plan.nifti
        if progress is not None:
            progress.update(1)
    columns = (*COLUMNS, *FINDINGS) if settings.multiple else COLUMNS
    _write_labels(folder / LABELS, [columns, *rows])
    facts = {
        "settings_digest": digest,
        "num_patients": settings.num_patients,
        "num_images": len(rows),
        "num_dicom": len(rows) - num_nifti,
        "num_nifti": num_nifti,
        "class_counts": {name: counts[name] for name in CLASSES if counts[name]},
    }
    shutil.rmtree(folder / _PARTIAL, ignore_errors=True)
    write_json(marker, {**_opening(settings, digest), "complete": True, "index": facts})
    return PhantomIndex(**facts, folder=folder, labels_csv=folder / LABELS)


def planted_values(folder: Path) -> list[str]:
    """Return every identifying value in the headers and file names of a phantom cohort.

    Names with their parts, ids, dates, times, UIDs, addresses, telephone numbers, institutions, physicians,
    descriptions, private notes, folder and file names; none is shorter than 4 characters and each is
    planted on purpose. A value found in an output is a leak.

    Args:
        folder: a cohort folder, finished or not (the values follow from its settings).

    Returns:
        Distinct values, sorted.

    Raises:
        DataError: the folder is not a phantom cohort.
    """
    values: set[str] = set()
    for entry in _entries(_settings_of(folder)):
        values.update(_planted_in(entry))
    return sorted(values)


def planted_findings(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the findings that each image of a phantom cohort shows: the truth, also of uncertain cells.

    Args:
        folder: a cohort folder, finished or not (the findings follow from its settings).

    Returns:
        File, as in the table -> findings in the order of FINDINGS; empty for normal.

    Raises:
        DataError: the folder is not a phantom cohort.
    """
    return {entry.file: entry.plan.findings for entry in _entries(_settings_of(folder))}


def _settings_of(folder: Path) -> PhantomSettings:
    """Return the settings in a cohort's marker, or refuse the folder."""
    content = read_json(folder / MARKER, role="phantom cohort")
    try:
        return PhantomSettings(**content["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            "the marker does not hold the settings of a phantom cohort",
            field=MARKER,
            remedy="Write the phantom cohort again into an empty folder.",
        ) from error


def _planted_in(entry: _Entry) -> set[str]:
    """Values in one file and its path. A NIfTI file holds few of them in its header."""
    path = Path(entry.file)
    names = {entry.patient.folder, entry.image.study_folder, entry.image.file_stem, path.name}
    if entry.plan.nifti:
        patient = entry.patient
        return {entry.image.file_stem, path.name, patient.folded_name, patient.birth_date, patient.patient_id}
    return {*planted(entry.patient), *planted(entry.image), *names}


def _entries(settings: PhantomSettings) -> Iterator[_Entry]:
    for index in range(settings.num_patients):
        plan = plan_patient(settings, index)
        patient = identify_patient(plan)
        for number in range(plan.num_images):
            image = identify_image(plan, patient, number)
            if plan.nifti:
                file = f"nifti/{patient.patient_id}_{image.file_stem}.nii.gz"
            else:
                file = f"dicom/{patient.folder}/{image.study_folder}/{image.file_stem}.dcm"
            yield _Entry(plan, patient, image, number, file)


def _encode(entry: _Entry, image_size: int) -> bytes:
    plan = entry.plan
    pixels, view = render_view(plan.patient_seed, plan.findings, image_size, entry.number)
    if plan.nifti:
        return nifti_bytes(plan, entry.patient, entry.number, pixels, view)
    person = demographics(plan.patient_seed)
    return dicom_bytes(
        plan, entry.patient, entry.image, number=entry.number, pixels=pixels, view=view, person=person
    )


def _cells(plan: PatientPlan) -> tuple[str, ...]:
    """Cells of a patient's findings in the table: 1 present, 0 absent, -1 uncertain."""
    return tuple("-1" if name in plan.uncertain else str(int(name in plan.findings)) for name in FINDINGS)


def _opening(settings: PhantomSettings, digest: str) -> dict[str, object]:
    return {"settings": settings.model_dump(mode="json"), "settings_digest": digest}


def _begin(folder: Path, settings: PhantomSettings, digest: str) -> bool:
    """Claim the folder for these settings; return whether it is already finished."""
    marker = folder / MARKER
    if marker.exists():
        content = read_json(marker, role="phantom cohort")
        if not isinstance(content, dict) or content.get("settings_digest") != digest:
            raise OutputExistsError(
                "the folder holds a phantom cohort of other settings",
                field="folder",
                value=str(folder),
                remedy="Name another folder, or delete this one.",
            )
        return content.get("complete") is True
    if folder.exists() and any(not _is_marker(entry) for entry in folder.iterdir()):
        if marker.exists():
            # Another process has begun the same cohort since.
            return _begin(folder, settings, digest)
        raise OutputExistsError(
            "the folder is not empty and holds no phantom cohort",
            field="folder",
            value=str(folder),
            remedy="Name an empty or a new folder.",
        )
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(marker, {**_opening(settings, digest), "complete": False})
    return False


def _is_marker(entry: Path) -> bool:
    """Return whether an entry of a cohort folder is the marker, or its temporary file."""
    return entry.name == MARKER or entry.name.startswith(f".{Path(MARKER).stem}-")


def _write_bytes(folder: Path, path: Path, data: bytes) -> None:
    """Write one scan atomically: to a temporary file, then renamed.

    Scans are not synced to disk one by one, because phantoms can be generated again; the marker that declares
    them complete is.
    """
    aside = folder / _PARTIAL
    # Another process may write the same cohort: it has a file of its own, and removes the folder when done.
    temporary = aside / f"scan-{uuid.uuid4().hex}"
    with storage_errors(folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(3):
            try:
                aside.mkdir(exist_ok=True)
                temporary.write_bytes(data)
                temporary.replace(path)
                return
            except FileNotFoundError:
                if attempt == 2:
                    raise


def _write_labels(path: Path, rows: list[tuple[str, ...]]) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerows(rows)
    write_text(path, table.getvalue())
