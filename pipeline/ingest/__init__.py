"""Ingest: from the scans that a manifest names to a de-identified cohort with a patient-level split."""

from __future__ import annotations

from pipeline.ingest.run import ingest_inputs, run_ingest
from pipeline.ingest.settings import IngestSettings

__all__ = ["IngestSettings", "ingest_inputs", "run_ingest"]
