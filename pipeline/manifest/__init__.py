"""Data manifests: where the scans are, what the labels mean, who the patients are, how the split is kept."""

from pipeline.manifest.loading import load_manifest
from pipeline.manifest.model import Manifest, manifest_schema

__all__ = ["Manifest", "load_manifest", "manifest_schema"]
