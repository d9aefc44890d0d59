"""Rules of the built-in phantom cohort."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline.manifest.kinds.scan_rules import SourceRule
from pipeline.phantom.settings import PhantomSettings


class PhantomSource(SourceRule):
    """Built-in phantom X-ray cohort, created once in the cache and read from its files."""

    kind: Literal["phantom"]
    settings: PhantomSettings = Field(
        default_factory=PhantomSettings, description="Size and seed of the cohort."
    )

    def not_here(self, present: Callable[[str], Path | None]) -> str:
        """Return a note with the number of patients of the cohort that ingest will create."""
        return f"phantom of {self.settings.num_patients} patients, created by ingest"
