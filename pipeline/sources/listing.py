"""Listing of all scans of a manifest, from all kinds of sources."""

from __future__ import annotations

import hashlib

from pipeline.manifest import Manifest
from pipeline.manifest.kinds.table import KINDS, named
from pipeline.sources.base import Asked
from pipeline.sources.folders import Listing, merge


def list_scans(
    manifest: Manifest, *, phantom_patients: int | None = None, image_size: int | None = None
) -> Listing:
    """List all scans of the manifest's sources; download archives and create phantoms first.

    Args:
        manifest: a loaded manifest.
        phantom_patients: number of patients of a phantom source, instead of the manifest's.
        image_size: side of the cohort's images in pixels, which selects an archive's size; None selects the
            smallest.

    Raises:
        ManifestError: a path has a variable that is not set, or a table lacks a column.
        DataError: a folder, table or archive is missing or unreadable.
    """
    return merge(
        list_source(manifest, number, phantom_patients=phantom_patients, image_size=image_size)
        for number in range(len(manifest.sources))
    )


def list_source(
    manifest: Manifest, number: int, *, phantom_patients: int | None = None, image_size: int | None = None
) -> Listing:
    """List the scans of the source at a position of the manifest; see `list_scans`."""
    if image_size is not None and manifest.geometry.native_size is not None:
        image_size = min(image_size, manifest.geometry.native_size)
    source = manifest.sources[number]
    asked = Asked(phantom_patients=phantom_patients, image_size=image_size)
    found: Listing = named(KINDS[source.kind].lists)(manifest, source, number, asked)
    return found


def inputs_digest(manifest: Manifest, listing: Listing) -> dict[str, str]:
    """Return role -> digest of everything that ingest reads, for `open_stage`."""
    return {
        "manifest": manifest.digest(),
        "scans": hashlib.sha256(listing.fingerprint.encode()).hexdigest(),
    }
