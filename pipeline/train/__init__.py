"""Cohort to checkpoint: trains the class-conditional denoiser, and survives being killed."""

from pipeline.train.settings import TrainSettings
from pipeline.train.stage import run_train

__all__ = ["TrainSettings", "run_train"]
