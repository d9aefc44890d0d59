"""The private map from hashed ids to file names and patients, written only if the user asks for it."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.errors import ScanRefusedError, UsageError
from pipeline.identity import Pseudonyms, load_key
from pipeline.ingest.writing.tables import BlockTable
from pipeline.sources.base import OWN_PATIENT, ScanTask
from pipeline.sources.reading import read_patient

COLUMNS = ("sample_id", "patient_id", "name", "patient", "name_bytes")
"""Columns of the map. The name of a frame is `name#frame`, from which its id was made."""


def check_map_path(path: Path | None, out: Path) -> None:
    """Refuse a map inside an output, where it would undo the pseudonyms.

    Raises:
        UsageError: the path lies in the run of the cohort or in the output of a stage.
    """
    if path is None:
        return
    place, run = path.absolute().resolve(), out.absolute().resolve()
    if (out.parent / "recipe.yaml").exists():
        run = run.parent
    if place.is_relative_to(run) or any((folder / "inputs.json").exists() for folder in place.parents):
        raise UsageError(
            "the private map must lie outside every output",
            field="ingest.private_map",
            value=str(path),
            remedy="Choose a file in a folder that only you can read.",
        )


def write_private_map(path: Path, tasks: list[ScanTask], unread: Mapping[str, str], cohort: Path) -> None:
    """Write the map as Parquet with mode 0600: `sample_id`, `patient_id`, `name`, `patient`, `name_bytes`.

    A byte of a name that is not UTF-8 reads `\\udcff` (for FF); `name_bytes` has the name as it is on disk.

    Args:
        path: the file.
        tasks: all scans.
        unread: name of each unread file -> reason; the quality page names some of them by hash.
        cohort: the finished cohort; its ids give the number of frames of each file.
    """
    import pyarrow as pa

    pseudonyms, known_ids = Pseudonyms(load_key()), ids_of_cohort(cohort)
    schema = pa.schema([(name, pa.binary() if name == "name_bytes" else pa.string()) for name in COLUMNS])
    with BlockTable(path, schema, 4096) as table:
        for task in tasks:
            patient = task.patient
            if patient is None and not task.refusal:
                with contextlib.suppress(ScanRefusedError):
                    patient = read_patient(task)
            known = patient is not None and not patient.startswith(OWN_PATIENT)
            for frame in frames_of(task, pseudonyms, known_ids):
                table.add(
                    sample_id=pseudonyms.scan(task.scan_name + frame),
                    patient_id=pseudonyms.patient(patient) if patient else "",
                    name=task.name + frame,
                    patient=patient if known else "",
                    name_bytes=_bytes(task.name + frame),
                )
        for name in sorted(unread):
            table.add(
                sample_id=pseudonyms.scan(name), patient_id="", name=name, patient="", name_bytes=_bytes(name)
            )


def ids_of_cohort(cohort: Path) -> set[int]:
    """Return the ids of all records and refused scans of a cohort as integers."""
    import pyarrow.parquet as pq

    found: set[int] = set()
    for name in ("records.parquet", "rejected.parquet"):
        for batch in pq.ParquetFile(cohort / name).iter_batches(columns=["sample_id"]):
            found.update(number_of(sample_id) for sample_id in batch.column(0).to_pylist())
    return found


def _bytes(name: str) -> bytes:
    """Return a name as bytes; a name from an archive may have surrogates that stand for no byte."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")


def frames_of(task: ScanTask, pseudonyms: Pseudonyms, known_ids: set[int]) -> Iterator[str]:
    """Yield what each id of a file adds to its name: nothing for the file, `#1`, `#2`, ... for its frames."""

    def is_known(added: str) -> bool:
        return number_of(pseudonyms.scan(task.scan_name + added)) in known_ids

    frames = itertools.takewhile(is_known, (f"#{frame}" for frame in itertools.count(1)))
    first = next(frames, None)
    # If reading stops within a file of frames, its refusal has the id of the file itself.
    if first is None or is_known(""):
        yield ""
    if first is not None:
        yield first
    yield from frames


def number_of(sample_id: str) -> int:
    """Return the pseudonym of a scan as an integer, which takes less memory than its text."""
    return int(sample_id.removeprefix("s-"), 16)
