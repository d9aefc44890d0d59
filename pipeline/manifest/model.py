"""The manifest as a frozen model, one class a kind of source, and its JSON schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from pipeline.errors import ManifestError
from pipeline.manifest.paths import expand_path
from pipeline.manifest.rules import (
    AspectRule,
    AttributeRule,
    Column,
    GeometryRule,
    LabelRule,
    Name,
    PathText,
    PatientRule,
    Rule,
    SplitRule,
    TableRule,
    Text,
)
from pipeline.sources.phantom.settings import PhantomSettings
from pipeline.storage import digest_of


class FolderRule(Rule):
    """What all folders of files have in common."""

    path: PathText = Field(description="The folder; relative to the manifest, ${VARIABLE} is expanded.")
    include: tuple[str, ...] = Field(
        ("**/*",), min_length=1, max_length=16, description="Patterns of the files below `path` to read."
    )
    table: TableRule | None = Field(None, description="A table with one row a file.")
    label: LabelRule = Field(description="Where the label stands.")
    patient: PatientRule | None = Field(None, description="How the patient is known; without it, nobody is.")
    published_splits: dict[Name, Column] = Field(
        default_factory=dict, description="Name of a published split -> column of the table with its parts."
    )
    attributes: AttributeRule = Field(
        default_factory=AttributeRule, description="Columns kept as attributes."
    )
    pixel_aspect: AspectRule | None = Field(None, description="Undo a squeezed pixel shape.")

    @model_validator(mode="after")
    def _columns_need_a_table(self) -> Self:
        named = [self.label.column, self.attributes.sex, self.attributes.age]
        named += [self.patient.column if self.patient and not self.patient.table else None]
        named += [self.pixel_aspect.column if self.pixel_aspect else None, *self.published_splits.values()]
        wanted = [name for name in named if name is not None]
        if wanted and self.table is None:
            raise ValueError(f"column {wanted[0]!r} needs a table")
        return self


class DicomSource(FolderRule):
    """A folder of DICOM files."""

    kind: Literal["dicom"]


class NiftiSource(FolderRule):
    """A folder of NIfTI files (.nii, .nii.gz)."""

    kind: Literal["nifti"]
    projection: Literal["none", "middle", "mean", "max"] = Field(
        "none",
        description="What to take of a volume: refuse it, its middle slice, mean or maximum along `axis`.",
    )
    axis: int = Field(
        1, ge=0, le=2, description="Axis of a volume in RAS+ orientation: 1 gives a frontal view."
    )

    @model_validator(mode="after")
    def _no_tag(self) -> Self:
        if self.patient and self.patient.tag:
            raise ValueError("patient.tag belongs to DICOM sources; use column, pattern or table")
        return self


class ImageSource(FolderRule):
    """A folder of PNG, JPEG or TIFF files (8 or 16 bit, grey)."""

    kind: Literal["images"]

    @model_validator(mode="after")
    def _no_tag(self) -> Self:
        if self.patient and self.patient.tag:
            raise ValueError("patient.tag belongs to DICOM sources; use column, pattern or table")
        return self


class Download(Rule):
    """Where a file may be fetched from, and the digest it must have."""

    url: Annotated[str, Field(pattern=r"^https?://", max_length=500)] = Field(description="Address.")
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] = Field(description="Published md5 of the file.")


class MedmnistSource(Rule):
    """One npz file in MedMNIST layout: `{train,val,test}_images` and `_labels`, or `images` and `labels`."""

    kind: Literal["medmnist"]
    path: PathText | None = Field(None, description="A local npz file, taken where it is present.")
    download: Download | None = Field(
        None, description="Fetched into the cache where no local file is named."
    )
    labels: dict[str, Name] = Field(min_length=1, description="Label number -> class name.")
    published_split: Name = Field("medmnist", description="Name under which its parts are reported.")
    patient: PatientRule | None = Field(None, description="Only a separate table is possible.")

    @field_validator("labels", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return {str(key): name for key, name in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _places(self) -> Self:
        if self.path is None and self.download is None:
            raise ValueError("give path, download, or both")
        if self.patient is not None and (
            self.patient.table is None or set(self.patient.keys) != {"split", "index"}
        ):
            raise ValueError("patient needs a table with keys [split, index] here")
        return self


class PhantomSource(Rule):
    """The built-in phantom X-ray cohort, made once in the cache and read as the files it is."""

    kind: Literal["phantom"]
    settings: PhantomSettings = Field(
        default_factory=PhantomSettings, description="Size and seed of the cohort."
    )


Source = Annotated[
    DicomSource | NiftiSource | ImageSource | MedmnistSource | PhantomSource, Field(discriminator="kind")
]


class Manifest(Rule):
    """A data manifest.

    `load_manifest` is the way to get one; relative paths are relative to its file.
    """

    format_version: Literal[1] = Field(1, description="Version of this format.")
    name: Name = Field(description="Short name of the dataset.")
    description: Text = Field("", description="What it is, for people.")
    license: Text = Field("", description="Licence of the scans.")
    citation: Text = Field("", description="What to cite.")
    classes: tuple[Name, ...] | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Class names in order; without it, those found, sorted.",
    )
    sources: tuple[Source, ...] = Field(min_length=1, max_length=16, description="Where the scans are.")
    geometry: GeometryRule = Field(
        default_factory=GeometryRule, description="How a scan becomes a square image."
    )
    split: SplitRule = Field(default_factory=SplitRule, description="What is kept of a published split.")

    _folder: Path = PrivateAttr(default_factory=Path.cwd)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: a name stands twice")
        known = {name for source in self.sources for name in published_names(source)}
        if self.split.keep_test is not None and self.split.keep_test not in known:
            raise ValueError(
                f"split.keep_test: {self.split.keep_test!r} is not a published split of a source"
            )
        return self

    def located(self, folder: Path) -> Self:
        """Return this manifest with relative paths taken from `folder`."""
        self._folder = folder
        return self

    def resolve(self, text: str, field: str) -> Path:
        """Return an absolute path for a path written in the manifest.

        Raises:
            ManifestError: it names an environment variable that is not set.
        """
        path, missing = expand_path(text, self._folder)
        if missing:
            raise ManifestError(
                f"the environment variable {missing} is not set",
                field=field,
                value=text,
                remedy=f"Set {missing} to the data folder, or write a path into the manifest.",
            )
        return path

    def present(self, text: str) -> Path | None:
        """Return the absolute path if its variables are set and it exists, else None."""
        path, missing = expand_path(text, self._folder)
        return path if not missing and path.exists() else None

    def digest(self) -> str:
        """Return the sha256 (hex) of the manifest's content; where it lies does not matter."""
        return digest_of(self.model_dump(mode="json"))


def published_names(source: Rule) -> tuple[str, ...]:
    """Return the names of the published splits that a source declares."""
    if isinstance(source, MedmnistSource):
        return (source.published_split,)
    return tuple(source.published_splits) if isinstance(source, FolderRule) else ()


def manifest_schema() -> dict[str, Any]:
    """Return the JSON schema of a manifest, as kept in `data_manifests/schema.json`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema()}
