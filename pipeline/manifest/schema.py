"""Prints the manifest's JSON schema: `python -m pipeline.manifest.schema > data_manifests/schema.json`."""

from __future__ import annotations

import json
import sys

from pipeline.manifest.model import manifest_schema


def schema_text() -> str:
    """Return the text of `data_manifests/schema.json`."""
    return json.dumps(manifest_schema(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
