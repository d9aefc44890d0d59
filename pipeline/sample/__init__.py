"""The sample stage: generates candidates of every class from a checkpoint, with one seed per image."""

from pipeline.sample.settings import SampleSettings
from pipeline.sample.stage import run_sample

__all__ = ["SampleSettings", "run_sample"]
