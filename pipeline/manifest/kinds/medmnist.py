"""Rules of a MedMNIST archive: its location, sizes and labels."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.manifest.kinds.scan_rules import SourceRule
from pipeline.manifest.rules import Name, PathText, PatientRule, Rule, TableName

_PLAIN_SIZE = 28
"""Size without a suffix in MedMNIST's file names."""


class Download(Rule):
    """Download address of a file, and its digest."""

    url: Annotated[str, Field(pattern=r"^https?://", max_length=500)] = Field(description="Address.")
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] = Field(description="Published md5 of the file.")


class MedmnistSource(SourceRule):
    """npz file in MedMNIST layout: `{train,val,test}_images` and `_labels`, or `images` and `labels`."""

    kind: Literal["medmnist"]
    path: PathText | None = Field(
        None,
        description="Local npz file, used if it exists. With `sizes`, {size} is replaced by the size and "
        "{suffix} by MedMNIST's suffix of the name: empty for 28, otherwise _64, _128, _224.",
    )
    download: Download | None = Field(None, description="Download into the cache, used without a local file.")
    sizes: dict[Annotated[int, Field(ge=8, le=4096)], Download] | None = Field(
        None,
        min_length=1,
        max_length=16,
        description="Image size -> download of that size. The smallest size that is at least the image size "
        "of the cohort is used, otherwise the largest.",
    )
    labels: dict[str, TableName] = Field(
        min_length=1,
        description="Label number in the archive -> class name, or column number -> finding. In the cohort, "
        "classes are numbered by their sorted names, independently of the numbers here.",
    )
    multi_label: bool = Field(False, description="Whether labels are (N, findings) with values 0 and 1.")
    none: TableName | None = Field(None, description="Class of a scan without findings, if multi_label.")
    several: Literal["first", "refuse"] = Field(
        "first", description="Treatment of scans with several findings, as for `label.several`."
    )
    published_split: Name = Field("medmnist", description="Name of the archive's split in reports.")
    patient: PatientRule | None = Field(
        None, description="Source of the patient; only a separate table is possible."
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return {str(key): name for key, name in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.path is None and self.download is None and self.sizes is None:
            raise ValueError("give path, download or sizes")
        if self.download is not None and self.sizes is not None:
            raise ValueError("give download or sizes, not both")
        if self.sizes is None and self.path is not None and re.search(r"(?<!\$)\{(size|suffix)\}", self.path):
            raise ValueError("{size} and {suffix} in path require sizes")
        if self.multi_label and set(self.labels) != {str(number) for number in range(len(self.labels))}:
            raise ValueError("labels must have the keys 0, 1, ... without gaps, if multi_label")
        if self.multi_label and len(set(self.labels.values())) != len(self.labels):
            raise ValueError("labels: a finding is listed twice")
        if not self.multi_label and {"none", "several"} & self.model_fields_set:
            raise ValueError("none and several require multi_label")
        if self.patient is not None and (
            self.patient.table is None or set(self.patient.keys) != {"split", "index"}
        ):
            raise ValueError("patient requires a table with keys [split, index]")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Finding of each column of the labels; empty if each scan has one label."""
        return tuple(self.labels[str(number)] for number in range(len(self.labels) * self.multi_label))

    @property
    def findings(self) -> tuple[str, ...]:
        """Names of the findings, sorted; empty if each scan has one label."""
        return tuple(sorted(self.columns))

    @property
    def published_names(self) -> tuple[str, ...]:
        """Name of the archive's split in reports."""
        return (self.published_split,)

    @property
    def takes_first(self) -> bool:
        """Whether the first of several findings becomes the class of a scan."""
        return bool(self.findings) and self.several == "first"

    def not_here(self, present: Callable[[str], Path | None]) -> str:
        """Return a note with the address of the smallest size; empty if the file exists or has no address."""
        path, download = self.chosen(None)
        if download is None or (path is not None and present(path) is not None):
            return ""
        return f"not on this machine; ingest downloads it from {download.url}"

    def chosen(self, image_size: int | None) -> tuple[str | None, Download | None]:
        """Return (local path, download) of the smallest size of at least `image_size`, or of the largest.

        Args:
            image_size: side of the cohort's images in pixels; None takes the smallest size.
        """
        if self.sizes is None:
            return self.path, self.download
        enough = [size for size in sorted(self.sizes) if size >= (image_size or 0)]
        size = enough[0] if enough else max(self.sizes)
        path = self.path
        if path is not None:
            suffix = "" if size == _PLAIN_SIZE else f"_{size}"
            path = re.sub(r"(?<!\$)\{size\}", str(size), path)
            path = re.sub(r"(?<!\$)\{suffix\}", suffix, path)
        return path, self.sizes[size]
