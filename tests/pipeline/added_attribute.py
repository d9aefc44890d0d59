"""A scan attribute of somebody's own, which stands in the table once this module is imported.

Run as a program, it takes it through the stages: FOLDER is empty, and a line of JSON tells what was found.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pipeline.scan_attributes import SCAN_ATTRIBUTES, ScanAttribute

NAME = "body_part"


def body_part(text: str) -> str:
    """Return `chest` or `abdomen`, empty for anything else."""
    known = {"chest": "chest", "thorax": "chest", "abdomen": "abdomen", "belly": "abdomen"}
    return known.get(text.strip().lower(), "")


SCAN_ATTRIBUTES[NAME] = ScanAttribute(
    key="part",
    column="Column with chest or abdomen.",
    from_cell=body_part,
    meaning="Part of the body that the image was generated for.",
    tag=0x00180015,
    keyword="BodyPartExamined",
    from_header=body_part,
)

MANIFEST = """
name: parts
sources:
  - kind: dicom
    path: scans
    include: ["*.dcm"]
    table: {path: table.csv}
    label: {column: label}
    patient: {tag: PatientID}
    attributes: {sex: sex, part: said}
"""


def _scans(folder: Path) -> None:
    """Write 32 scans of 16 patients: the table tells of the even ones, the header of all others but one."""
    import numpy as np
    from pydicom import dcmwrite

    from tests.pipeline.sources.dicom.dicoms import header

    rng, rows = np.random.default_rng(0), ["file,label,sex,said"]
    for number in range(32):
        pixels = rng.integers(0, 4096, (16, 16), dtype=np.uint16)
        dataset = header(PatientID=f"MRN-{number // 2}", BodyPartExamined="THORAX" if number != 5 else "KNEE")
        dataset.Rows, dataset.Columns, dataset.PixelData = 16, 16, pixels.tobytes()
        (folder / "scans").mkdir(exist_ok=True)
        dcmwrite(folder / "scans" / f"{number}.dcm", dataset, enforce_file_format=True)
        rows.append(f"{number}.dcm,{'ab'[number // 2 % 2]},F,{'' if number % 2 else 'belly'}")
    (folder / "scans" / "table.csv").write_text("\n".join(rows) + "\n")
    (folder / "m.yaml").write_text(MANIFEST.replace("table.csv", "scans/table.csv"))


def ingested(folder: Path) -> dict[str, Any]:
    """Ingest scans, and return what the cohort says of the attribute."""
    import numpy as np

    from pipeline.artifacts.cohort import Cohort
    from pipeline.artifacts.conditions import CohortConditions
    from pipeline.ingest import run_ingest
    from pipeline.ingest.settings import IngestSettings
    from pipeline.manifest import load_manifest, manifest_schema

    _scans(folder)
    settings = IngestSettings(image_size=8, workers=1)
    cohort = Cohort(run_ingest(load_manifest(folder / "m.yaml"), folder / "ingested", settings).path)
    records, conditions = cohort.records(), CohortConditions(cohort, (NAME,))
    codes = conditions.codes(np.arange(cohort.info.num_scans))[:, 1]
    return {
        "keys": list(manifest_schema()["$defs"]["AttributeRule"]["properties"]),
        "columns": list(records.columns),
        "records": records[NAME].value_counts().to_dict(),
        "shape": list(cohort.attributes().shape),
        "values": cohort.info.attributes[NAME],
        "codes": np.bincount(codes, minlength=3).tolist(),
    }


def released(folder: Path) -> dict[str, Any]:
    """Train on a cohort with the attribute, draw what it asks for, release that, and return what is told."""
    import csv

    import numpy as np

    from pipeline.artifacts.candidates import Candidates
    from pipeline.release import ReleaseSettings, run_release, verify_release
    from pipeline.sample import SampleSettings, run_sample
    from pipeline.settings_page import page
    from pipeline.train import TrainSettings, run_train
    from tests import tiny
    from tests.cohorts import write_cohort
    from tests.pipeline.release.sets import make_audit, make_candidates

    said = np.where(np.arange(240) % 3, "chest", "abdomen").tolist()
    cohort = write_cohort(folder / "cohort", image_size=16, attributes={NAME: said})
    settings = TrainSettings(**{**tiny.TRAIN, "num_steps": 3, "conditions": (NAME,)})
    checkpoint = run_train(cohort, folder / "checkpoint", settings, seed=1)
    asked = SampleSettings(per_class=2, overdraw=1, num_steps=3, given={NAME: "chest"})
    drawn = Candidates(run_sample(checkpoint, folder / "drawn", asked, seed=1).path)
    conditions = tuple(sorted(set(drawn.table["condition"])))
    candidates = make_candidates(folder / "candidates", conditions=conditions)
    audit = make_audit(folder / "audit", candidates)
    release = run_release(candidates, audit, folder / "release", ReleaseSettings(), seed=1)
    rows = list(csv.DictReader((release.path / "metadata.csv").open()))
    described = json.loads((release.path / "croissant.json").read_text())["recordSet"][0]["field"]
    return {
        "conditions": conditions,
        "cells": sorted({row[NAME] for row in rows}),
        "verified": verify_release(release.path) == release,
        "card": (release.path / "DATASET_CARD.md").read_text(),
        "croissant": [part["description"] for part in described if part["name"] == NAME],
        "page": f"view, {NAME}, findings (one condition each)" in page(),
    }


if __name__ == "__main__":
    place = Path(sys.argv[1])
    sys.stdout.write(json.dumps({"ingested": ingested(place), "released": released(place)}) + "\n")
