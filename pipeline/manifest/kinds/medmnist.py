"""The rules of a MedMNIST archive: where it lies, in which sizes, what its labels mean."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.manifest.kinds.scan_rules import SourceRule
from pipeline.manifest.rules import Name, PathText, PatientRule, Rule, TableName

_PLAIN_SIZE = 28
"""The size that MedMNIST's file names do not tell."""


class Download(Rule):
    """Where a file may be fetched from, and the digest it must have."""

    url: Annotated[str, Field(pattern=r"^https?://", max_length=500)] = Field(description="Address.")
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] = Field(description="Published md5 of the file.")


class MedmnistSource(SourceRule):
    """One npz file in MedMNIST layout: `{train,val,test}_images` and `_labels`, or `images` and `labels`."""

    kind: Literal["medmnist"]
    path: PathText | None = Field(
        None,
        description="A local npz file, taken where it is present. With `sizes`, {size} stands for the size "
        "and {suffix} for what MedMNIST puts behind the set's name: nothing at 28, else _64, _128, _224.",
    )
    download: Download | None = Field(
        None, description="Fetched into the cache where no local file is named."
    )
    sizes: dict[Annotated[int, Field(ge=8, le=4096)], Download] | None = Field(
        None,
        min_length=1,
        max_length=16,
        description="Image size -> download of that size; the smallest that is not below the cohort's image "
        "size is taken, else the largest.",
    )
    labels: dict[str, TableName] = Field(
        min_length=1,
        description="Label number in the archive -> class name, or column number -> finding. The cohort "
        "numbers classes by their sorted names, whatever their numbers here.",
    )
    multi_label: bool = Field(False, description="The labels are (N, findings) of 0 and 1.")
    none: TableName | None = Field(None, description="Class of a scan without any finding, if multi_label.")
    several: Literal["first", "refuse"] = Field(
        "first", description="How a scan with several findings gets its class, as for `label.several`."
    )
    published_split: Name = Field("medmnist", description="Name under which its parts are reported.")
    patient: PatientRule | None = Field(None, description="Only a separate table is possible.")

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
            raise ValueError("{size} and {suffix} in path need `sizes`")
        if self.multi_label and set(self.labels) != {str(number) for number in range(len(self.labels))}:
            raise ValueError("labels must number the findings from 0")
        if self.multi_label and len(set(self.labels.values())) != len(self.labels):
            raise ValueError("labels: a finding stands twice")
        if not self.multi_label and {"none", "several"} & self.model_fields_set:
            raise ValueError("none and several belong to multi_label")
        if self.patient is not None and (
            self.patient.table is None or set(self.patient.keys) != {"split", "index"}
        ):
            raise ValueError("patient needs a table with keys [split, index] here")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The finding of each column of the archive's labels; empty where a scan has one label."""
        return tuple(self.labels[str(number)] for number in range(len(self.labels) * self.multi_label))

    @property
    def findings(self) -> tuple[str, ...]:
        """The names of the findings, sorted; empty where a scan has one label."""
        return tuple(sorted(self.columns))

    @property
    def published_names(self) -> tuple[str, ...]:
        """The name under which the archive's parts are reported."""
        return (self.published_split,)

    @property
    def takes_first(self) -> bool:
        """Whether a scan gets the first of several findings as its class."""
        return bool(self.findings) and self.several == "first"

    def not_here(self, present: Callable[[str], Path | None]) -> str:
        """Return where the smallest size is fetched from; empty if it lies here, or nobody says where."""
        path, download = self.chosen(None)
        if download is None or (path is not None and present(path) is not None):
            return ""
        return f"not on this machine; ingest fetches it from {download.url}"

    def chosen(self, image_size: int | None) -> tuple[str | None, Download | None]:
        """Return (local path, download) of the smallest size not below `image_size`, else of the largest.

        Args:
            image_size: side of the cohort's images in pixels, or None: the smallest size there is.
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
