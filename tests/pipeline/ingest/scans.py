"""Small image folders and manifests, written for the ingest tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.manifest import Manifest, load_manifest
from tests.cohorts import draw

FOLDER_MANIFEST = """
name: drawn
sources:
  - kind: images
    path: scans
    include: ["*/*.png"]
    label: {folder: 0}
    patient: {pattern: "(pat[0-9]+)_"}
"""
TABLE_MANIFEST = """
name: drawn
sources:
  - kind: images
    path: scans
    table: {path: table.csv}
    label: {folder: 0}
    patient: {pattern: "(pat[0-9]+)"}
    published_splits: {official: part}
"""


def write_images(folder: Path, *, patients: int = 24, images: int = 2, size: int = 40) -> Path:
    """Write drawn 8-bit images of two classes below `folder/scans`, and return `folder/scans`."""
    rng = np.random.default_rng(3)
    scans = folder / "scans"
    for patient in range(patients):
        for image in range(images):
            place = scans / ("disc", "bar")[patient % 2] / f"pat{patient:03d}_Smith_{image}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(patient % 2, size, rng)).save(place)
    return scans


def manifest_of(folder: Path, text: str = FOLDER_MANIFEST) -> Manifest:
    """Write a manifest into `folder` and load it."""
    path = folder / "manifest.yaml"
    path.write_text(text, encoding="utf-8")
    return load_manifest(path)
