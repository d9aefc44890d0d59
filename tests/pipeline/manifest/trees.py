"""Small trees in the layouts of public sets, and what ingest made of them."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from pipeline.artifacts.cohort import Cohort
from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import load_manifest
from pipeline.sources.folders import Listing
from pipeline.sources.listing import list_scans

MANIFESTS = Path(__file__).resolve().parents[3] / "data_manifests"
STATES = {"absent": 0, "present": 1, "uncertain": 2}


def picture(number: int, depth: int = 8) -> npt.NDArray[Any]:
    """Return the (12, 14) picture of a number: no two are alike."""
    values = np.random.default_rng(number).integers(0, 2**depth, (12, 14))
    return values.astype(np.uint8 if depth == 8 else np.uint16)


class Tree:
    """Writes the files of a set below a folder, every picture different from all others."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._count = folder, 0

    def image(self, name: str, depth: int = 8) -> str:
        """Write a PNG or JPEG file and return its name."""
        path = self._path(name)
        Image.fromarray(picture(self._count, depth)).save(path)
        return name

    def dicom(self, name: str, **attributes: Any) -> str:
        """Write a DICOM CR image with a PatientID of its own unless one is given, and return its name."""
        from tests.pipeline.sources.dicom.dicoms import header

        made = header(picture(self._count + 1, 12), **{"PatientID": f"MRN-{self._count}", **attributes})
        made.save_as(self._path(name), enforce_file_format=True)
        return name

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Write a CSV table, gzipped if its name ends so."""
        path = self._path(name)
        content = io.StringIO(newline="")
        csv.writer(content).writerows([columns, *rows])
        data = content.getvalue().encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)

    def lines(self, name: str, lines: Iterable[str]) -> None:
        """Write a text file with one name a line."""
        self._path(name).write_text("".join(f"{line}\n" for line in lines))

    def _path(self, name: str) -> Path:
        self._count += 1
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@dataclass
class Ingested:
    """A cohort and its listing, with file names put back.

    Attributes:
        cohort: the cohort.
        listing: what the manifest lists.
        records: the record table by file name, with the columns `patient` (as found) and `row`.
        refused: file name -> reason.
    """

    cohort: Cohort
    listing: Listing
    records: pd.DataFrame
    refused: dict[str, str]

    def labels(self) -> dict[str, str]:
        """Return file name -> class."""
        return dict(self.records["label"])

    def patients(self) -> dict[str, str]:
        """Return file name -> patient as the set names it."""
        return dict(self.records["patient"])

    def parts(self, split: str) -> dict[str, str]:
        """Return file name -> part of a published split, over all that is listed."""
        place = self.listing.published.index(split)
        return {task.name: task.published[place] for task in self.listing.tasks}

    def findings(self, name: str) -> dict[str, str]:
        """Return the findings of a scan that are present or uncertain -> which of the two."""
        states = self.cohort.findings()[self.records.loc[name, "row"]]
        words = {code: word for word, code in STATES.items()}
        return {
            finding: words[int(state)]
            for finding, state in zip(self.cohort.info.findings, states, strict=True)
            if state
        }


def ingest_set(name: str, work: Path, **settings: Any) -> Ingested:
    """Ingest a shipped manifest, whose variable must be set, and put the file names back."""
    manifest = load_manifest(MANIFESTS / f"{name}.yaml")
    chosen = {"image_size": 8, "workers": 1, "max_reject_share": 0.9, "private_map": work / "map.parquet"}
    reference = run_ingest(manifest, work / "cohort", IngestSettings(**{**chosen, **settings}))
    cohort = Cohort(reference.path)
    known = pd.read_parquet(work / "map.parquet").set_index("sample_id")
    records = cohort.records()
    records["row"] = np.arange(len(records))
    records["name"] = known.loc[records["sample_id"], "name"].to_numpy()
    records["patient"] = known.loc[records["sample_id"], "patient"].to_numpy()
    rejected = pd.read_parquet(cohort.folder / "rejected.parquet")
    names = known.loc[rejected["sample_id"], "name"]
    listing = list_scans(manifest, image_size=chosen["image_size"])
    refused = dict(zip(names, rejected["reason"], strict=True))
    return Ingested(cohort, listing, records.set_index("name"), refused)
