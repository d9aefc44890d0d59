"""Checkpoint to candidates: draws images of every class, one seed an image."""

from pipeline.sample.settings import SampleSettings
from pipeline.sample.stage import run_sample

__all__ = ["SampleSettings", "run_sample"]
