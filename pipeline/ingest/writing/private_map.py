"""The private map from hashed ids back to file names and patients, written only where the user asks."""

from __future__ import annotations

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
"""A frame of a file stands there by `name#frame`, as its id was made."""


def check_map_path(path: Path | None, out: Path) -> None:
    """Refuse a map that would lie in an output, where it would undo the pseudonyms.

    Raises:
        UsageError: the path lies in the cohort directory or in another stage's output beside it.
    """
    if path is None:
        return
    place = path.absolute().resolve()
    run = (
        out.absolute().resolve().parent if (out.parent / "recipe.yaml").exists() else out.absolute().resolve()
    )
    if place.is_relative_to(run) or any((folder / "inputs.json").exists() for folder in place.parents):
        raise UsageError(
            "the private map must lie outside every output",
            field="ingest.private_map",
            value=str(path),
            remedy="Name a file in a folder that only you may read.",
        )


def write_private_map(path: Path, tasks: list[ScanTask], unread: Mapping[str, str], cohort: Path) -> None:
    """Write the map as Parquet with mode 0600: `sample_id`, `patient_id`, `name`, `patient`, `name_bytes`.

    What is no UTF-8 in a name reads `\\udcff` for the byte FF; `name_bytes` has the name as the disk has it.

    Args:
        path: the file.
        tasks: all scans.
        unread: name of what was not read -> why; the quality page names some of it by its hash.
        cohort: the finished cohort, whose ids tell how many frames a file had.
    """
    import pyarrow as pa

    pseudonyms, known_ids = Pseudonyms(load_key()), ids_of_cohort(cohort)
    kinds = {"name_bytes": pa.binary()}
    with BlockTable(
        path, pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS]), 4096
    ) as table:
        for task in tasks:
            patient = task.patient
            if patient is None and not task.refusal:
                try:
                    patient = read_patient(task)
                except ScanRefusedError:
                    patient = None
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
    """Return the ids of all scans that became records or were refused, as numbers."""
    import pyarrow.parquet as pq

    found: set[int] = set()
    for name in ("records.parquet", "rejected.parquet"):
        for batch in pq.ParquetFile(cohort / name).iter_batches(columns=["sample_id"]):
            found.update(number_of(sample_id) for sample_id in batch.column(0).to_pylist())
    return found


def _bytes(name: str) -> bytes:
    """Return a name as bytes; one out of an archive may have surrogates that stand for no byte."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")


def frames_of(task: ScanTask, pseudonyms: Pseudonyms, known_ids: set[int]) -> Iterator[str]:
    """Yield what each id of a file adds to its name: nothing, and its frames' numbers from the first on."""

    def is_known(added: str) -> bool:
        return number_of(pseudonyms.scan(task.scan_name + added)) in known_ids

    frames = itertools.takewhile(is_known, (f"#{frame}" for frame in itertools.count(1)))
    first = next(frames, None)
    # A file of frames stands under its own name too where the rest of it was refused.
    if first is None or is_known(""):
        yield ""
    if first is not None:
        yield first
    yield from frames


def number_of(sample_id: str) -> int:
    """Return the pseudonym of a scan as a number, which takes less memory than its text."""
    return int(sample_id.removeprefix("s-"), 16)
