"""A phantom cohort of several findings, ingested, with what each scan shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.artifacts.cohort import Cohort
from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import Manifest, load_manifest
from pipeline.manifest.kinds.phantom import PhantomSource
from pipeline.phantom import PhantomIndex, PhantomSettings, planted_findings, write_phantom_cohort
from pipeline.sources.phantom import phantom_folder

MANIFEST = Path(__file__).resolve().parents[1] / "data_manifests" / "phantom_findings.yaml"


@dataclass(frozen=True)
class KnownFindings:
    """A cohort and its truth.

    Attributes:
        cohort: the cohort; `cohort.info.findings` names the K findings.
        shown: (N, K) uint8: 1 where a scan shows a finding, else 0; also where the table is uncertain.
        files: (N,) file of each scan, as in the phantom's table.
        phantom: the phantom's files and table.
    """

    cohort: Cohort
    shown: npt.NDArray[np.uint8]
    files: list[str]
    phantom: PhantomIndex


def findings_manifest(settings: PhantomSettings) -> Manifest:
    """Return the shipped manifest of several findings with other settings of the phantom."""
    manifest = load_manifest(MANIFEST)
    source = manifest.sources[0].model_copy(update={"settings": settings})
    assert isinstance(source, PhantomSource)
    return manifest.model_copy(update={"sources": (source,)})


def ingest_findings(
    folder: Path,
    *,
    num_patients: int = 60,
    image_size: int = 32,
    several_share: float = 0.5,
    uncertain_share: float = 0.0,
    seed: int = 0,
) -> KnownFindings:
    """Write a phantom cohort of several findings, and ingest it into `folder / "cohort"`.

    The phantom lies in the cache, so a second cohort of the same settings is only ingested.

    Args:
        folder: folder for the cohort and the private map.
        num_patients: patients, of 1 to 3 scans each.
        image_size: side of the phantom's images and of the cohort's, at least 32 pixels.
        several_share, uncertain_share, seed: as in `PhantomSettings`.
    """
    settings = PhantomSettings(
        num_patients=num_patients,
        image_size=image_size,
        several_share=several_share,
        uncertain_share=uncertain_share,
        seed=seed,
    )
    kept = folder / "map.parquet"
    asked = IngestSettings(image_size=image_size, workers=1, private_map=kept)
    cohort = Cohort(run_ingest(findings_manifest(settings), folder / "cohort", asked).path)
    names = pd.read_parquet(kept).set_index("sample_id")["name"]
    files = [str(name) for name in names.loc[cohort.records()["sample_id"]]]
    phantom = write_phantom_cohort(phantom_folder(settings), settings)
    truth = planted_findings(phantom.folder)
    shown = [[name in truth[file] for name in cohort.info.findings] for file in files]
    return KnownFindings(cohort, np.array(shown, dtype=np.uint8), files, phantom)
