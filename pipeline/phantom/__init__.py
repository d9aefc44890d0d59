"""Phantom chest radiographs made by physics: the embedded default data, and a test-bed of known truth."""

from pipeline.phantom.render import render_phantom
from pipeline.phantom.settings import CLASSES, PhantomIndex, PhantomSettings
from pipeline.phantom.writer import planted_values, write_phantom_cohort

__all__ = [
    "CLASSES",
    "PhantomIndex",
    "PhantomSettings",
    "planted_values",
    "render_phantom",
    "write_phantom_cohort",
]
