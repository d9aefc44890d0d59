"""Phantom chest radiographs made by physics: the embedded default data, and a test-bed of known truth."""

from pipeline.phantom.render import render_phantom
from pipeline.phantom.settings import CLASSES, FINDINGS, PhantomIndex, PhantomSettings
from pipeline.phantom.writer import planted_findings, planted_values, write_phantom_cohort

__all__ = [
    "CLASSES",
    "FINDINGS",
    "PhantomIndex",
    "PhantomSettings",
    "planted_findings",
    "planted_values",
    "render_phantom",
    "write_phantom_cohort",
]
