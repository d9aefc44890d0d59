"""Rules of the built-in phantom cohort."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline.manifest.kinds.scan_rules import SourceRule
from pipeline.manifest.label_rules import LabelRule
from pipeline.phantom.settings import FINDINGS, PhantomSettings


class PhantomSource(SourceRule):
    """Built-in phantom X-ray cohort, created once in the cache and read from its files."""

    kind: Literal["phantom"]
    settings: PhantomSettings = Field(
        default_factory=PhantomSettings, description="Size and seed of the cohort."
    )

    @property
    def label(self) -> LabelRule:
        """Source of the label in the cohort's table: the class, or one column for each finding."""
        if not self.settings.multiple:
            return LabelRule(column="label")
        return LabelRule(columns={name: name for name in FINDINGS}, none="normal", uncertain="keep")

    @property
    def findings(self) -> tuple[str, ...]:
        """Names of the findings that a scan may have, sorted; empty if each scan has one label."""
        return self.label.findings

    @property
    def takes_first(self) -> bool:
        """Whether the first of several findings becomes the class of a scan."""
        return self.label.multiple

    def not_here(self, present: Callable[[str], Path | None]) -> str:
        """Return a note with the number of patients of the cohort that ingest will create."""
        return f"phantom of {self.settings.num_patients} patients, created by ingest"
