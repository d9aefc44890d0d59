"""The private map from hashed ids back to file names and patients, written only where the user asks."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ScanRefusedError, UsageError
from pipeline.identity import Pseudonyms, load_key
from pipeline.ingest.tables import BlockTable
from pipeline.sources.base import OWN_PATIENT, ScanTask
from pipeline.sources.reading import read_patient

COLUMNS = ("sample_id", "patient_id", "name", "patient")


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


def write_private_map(path: Path, tasks: list[ScanTask]) -> None:
    """Write the map as Parquet with mode 0600: `sample_id`, `patient_id`, `name`, `patient`."""
    import pyarrow as pa

    pseudonyms = Pseudonyms(load_key())
    with BlockTable(path, pa.schema([(name, pa.string()) for name in COLUMNS]), 4096) as table:
        for task in tasks:
            patient = task.patient
            if patient is None and not task.refusal:
                try:
                    patient = read_patient(task)
                except ScanRefusedError:
                    patient = None
            known = patient is not None and not patient.startswith(OWN_PATIENT)
            table.add(
                sample_id=pseudonyms.scan(task.scan_name),
                patient_id=pseudonyms.patient(patient) if patient else "",
                name=task.name,
                patient=patient if known else "",
            )
