"""Phantom chest radiographs made by physics: the embedded default data, and a test-bed of known truth."""

from .render import render_phantom
from .settings import CLASSES, PhantomIndex, PhantomSettings
from .writer import planted_values, write_phantom_cohort

__all__ = [
    "CLASSES",
    "PhantomIndex",
    "PhantomSettings",
    "planted_values",
    "render_phantom",
    "write_phantom_cohort",
]
