"""Data manifests: where the scans are, what their labels mean, who the patients are and how to split them."""

from pipeline.manifest.loading import load_manifest
from pipeline.manifest.model import Manifest, manifest_schema

__all__ = ["Manifest", "load_manifest", "manifest_schema"]
