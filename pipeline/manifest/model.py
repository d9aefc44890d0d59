"""The manifest as a frozen model, one class a kind of source, and its JSON schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, field_serializer, model_validator

from pipeline.errors import ManifestError
from pipeline.manifest.label_rules import LabelRule, PublishedRule
from pipeline.manifest.medmnist_rules import MedmnistSource
from pipeline.manifest.paths import expand_path
from pipeline.manifest.rules import (
    AspectRule,
    AttributeRule,
    Column,
    ExpectRule,
    GeometryRule,
    Name,
    PathText,
    PatientRule,
    Rule,
    SplitRule,
    TableName,
    Text,
)
from pipeline.manifest.table_rules import TableRule
from pipeline.manifest.web_rules import HOW_REACHED, ServerRule
from pipeline.phantom.settings import PhantomSettings
from pipeline.storage import digest_of

Cell = Annotated[str, Field(max_length=200)]
Colour = Literal["refuse", "grey"]
_COLOUR = (
    "A truly colourful image is refused, or shown by its brightness; grey in colour form is always read."
)


class ScanRules(Rule):
    """What all places of files have in common: which are read, and what is known of each."""

    include: tuple[str, ...] = Field(
        ("**/*",), min_length=1, max_length=16, description="Patterns of the files below `path` to read."
    )
    table: TableRule | None = Field(None, description="A table with one row a file.")
    label: LabelRule = Field(description="Where the label stands.")
    patient: PatientRule | None = Field(None, description="How the patient is known; without it, nobody is.")
    select: dict[Column, Annotated[tuple[Cell, ...], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="Column of the table -> values that are wanted, such as the frontal views; "
        "every other scan is left out, and counted in a note.",
    )
    published_splits: dict[Name, Column | PublishedRule] = Field(
        default_factory=dict,
        description="Name of a published split -> column of the table with its parts, or where they stand.",
    )
    attributes: AttributeRule = Field(
        default_factory=AttributeRule, description="Columns kept as attributes."
    )
    pixel_aspect: AspectRule | None = Field(None, description="Undo a squeezed pixel shape.")

    @model_validator(mode="after")
    def _columns_need_a_table(self) -> Self:
        wanted = self.table_columns()
        if wanted and self.table is None:
            raise ValueError(f"column {wanted[0][0]!r} needs a table")
        if self.table is not None:
            pooled = {table.repeated for table in (self.table, *self.table.joins)} - {"refuse", "agree"}
            if "any" in pooled and not self.label.multiple:
                raise ValueError("repeated: any needs a label of several findings")
        return self

    def table_columns(self) -> list[tuple[str, ...]]:
        """Return every column of the table that is used, each with the spellings its name may have."""
        named = [*self.label.table_columns, *self.select]
        named += (
            [self.patient.column] if self.patient and self.patient.column and not self.patient.table else []
        )
        named += [self.pixel_aspect.column] if self.pixel_aspect else []
        named += [rule.column for rule in self.published().values() if rule.column]
        return [(name,) for name in named] + [rule.spellings for rule in self.attributes.columns().values()]

    def published(self) -> dict[str, PublishedRule]:
        """Return the published splits, each as a rule."""
        return {
            name: rule if isinstance(rule, PublishedRule) else PublishedRule(column=rule)
            for name, rule in self.published_splits.items()
        }


class FolderRule(ScanRules):
    """What all folders of files have in common."""

    path: PathText = Field(
        description="The folder, zip or tar archive (or a DICOMDIR, for DICOM); relative to the manifest, "
        "${VARIABLE} is expanded."
    )


class DicomReading(Rule):
    """How DICOM files are read, wherever they lie."""

    frames: Literal["refuse", "first", "middle", "each"] | Annotated[int, Field(ge=1, le=100_000)] = Field(
        "refuse",
        description="What to take of an image of several frames: refuse it, its first or middle frame, each "
        "frame as a scan, or the frame of that number (1 the first).",
    )
    window: Literal["none"] | Annotated[int, Field(ge=0, le=100)] = Field(
        0,
        description="Which of several windows or VOI LUTs to show (0 the first), or none: the stored range.",
    )
    headless: bool = Field(False, description="Read files without preamble or file meta information.")
    colour: Colour = Field("refuse", description=_COLOUR)


class DicomSource(FolderRule, DicomReading):
    """A folder of DICOM files."""

    kind: Literal["dicom"]


class DicomWebSource(ScanRules, DicomReading, ServerRule):
    """The DICOM instances of a server; a file's name is `study/series/instance`, three UIDs."""

    kind: Literal["dicomweb"]


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
    window: tuple[float, float] | None = Field(
        None,
        description="Values that become black and white, such as Hounsfield units of a CT; what lies beyond "
        "is cut off before a projection.",
    )

    @model_validator(mode="after")
    def _no_tag(self) -> Self:
        if self.patient and self.patient.tag:
            raise ValueError("patient.tag belongs to DICOM sources; use column, pattern or table")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError("window must be two rising numbers")
        return self


class ImageSource(FolderRule):
    """A folder of PNG, JPEG or TIFF files (8 or 16 bit, grey)."""

    kind: Literal["images"]
    colour: Colour = Field("refuse", description=_COLOUR)

    @model_validator(mode="after")
    def _no_tag(self) -> Self:
        if self.patient and self.patient.tag:
            raise ValueError("patient.tag belongs to DICOM sources; use column, pattern or table")
        return self


class PhantomSource(Rule):
    """The built-in phantom X-ray cohort, made once in the cache and read as the files it is."""

    kind: Literal["phantom"]
    settings: PhantomSettings = Field(
        default_factory=PhantomSettings, description="Size and seed of the cohort."
    )


Source = Annotated[
    DicomSource | NiftiSource | ImageSource | DicomWebSource | MedmnistSource | PhantomSource,
    Field(discriminator="kind"),
]


class Manifest(Rule):
    """A data manifest.

    `load_manifest` is the way to get one; relative paths are relative to its file.
    """

    format_version: Literal[1] = Field(1, description="Version of this format.")
    name: TableName = Field(description="Short name of the dataset.")
    description: Text = Field("", description="What it is, for people.")
    license: Text = Field("", description="Licence of the scans.")
    citation: Text = Field("", description="What to cite.")
    access: Text = Field(
        "", description="How to get the scans: where, and what registration or agreement it takes."
    )
    classes: tuple[TableName, ...] | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Class names, in any order; without it, those found. Labels number the sorted names.",
    )
    priority: tuple[TableName, ...] | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Where a scan may have several findings: those that are classes, the one that counts "
        "first in front.",
    )
    sources: tuple[Source, ...] = Field(min_length=1, max_length=16, description="Where the scans are.")
    geometry: GeometryRule = Field(
        default_factory=GeometryRule, description="How a scan becomes a square image."
    )
    expect: ExpectRule | None = Field(
        None,
        description="Modalities and views to expect; others are flagged, or refused if settings say so.",
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
        if len({source_findings(source) for source in self.sources}) > 1:
            raise ValueError("sources: all must name the same findings")
        self._check_priority()
        return self

    @field_serializer("classes")
    def _by_name(self, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Write classes sorted: their order means nothing, and so does not change the digest."""
        return None if classes is None else tuple(sorted(classes))

    def _check_priority(self) -> None:
        """Check that `priority` says which finding counts first wherever a scan may have several."""
        choosing = [rule for source in self.sources if (rule := _chooses(source)) is not None]
        found = {name for rule in choosing for name in rule.findings}
        wanted = found if self.classes is None else found & set(self.classes)
        if self.priority is None:
            if len(wanted) > 1:
                written = [name for name in self.classes or sorted(wanted) if name in wanted]
                raise ValueError(
                    "priority: a scan may have several findings, and nothing says which counts first; "
                    f"list them, the first in front, as in priority: [{', '.join(written)}], or set "
                    "several: refuse where the label is described"
                )
            return
        if not choosing:
            raise ValueError("priority: no scan here gets its class from the first of several findings")
        if len(set(self.priority)) != len(self.priority):
            raise ValueError("priority: a name stands twice")
        for name in self.priority:
            if name not in wanted:
                raise ValueError(f"priority: {name!r} is not both a finding and a class")
        lacking = sorted(wanted - set(self.priority))
        if lacking:
            raise ValueError(f"priority: lacks {', '.join(lacking)}")

    @property
    def findings(self) -> tuple[str, ...]:
        """The names of the findings of a multi-label manifest, sorted; else empty."""
        return source_findings(self.sources[0])

    @property
    def ranked(self) -> tuple[str, ...]:
        """The findings that are classes, the one that counts first in front."""
        if self.priority is not None:
            return self.priority
        return tuple(name for name in self.findings if self.classes is None or name in self.classes)

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
        """Return the sha256 (hex) of the manifest's content.

        Where it lies does not matter, nor how a server is reached: instance UIDs are the same everywhere.
        """
        servers = {at: HOW_REACHED for at, one in enumerate(self.sources) if isinstance(one, ServerRule)}
        return digest_of(self.model_dump(mode="json", exclude={"sources": servers} if servers else None))


def published_names(source: Rule) -> tuple[str, ...]:
    """Return the names of the published splits that a source declares."""
    if isinstance(source, MedmnistSource):
        return (source.published_split,)
    return tuple(source.published_splits) if isinstance(source, ScanRules) else ()


def source_findings(source: Rule) -> tuple[str, ...]:
    """Return the names of the findings that a source may give a scan; empty where it gives one label."""
    if isinstance(source, ScanRules):
        return source.label.findings
    return source.findings if isinstance(source, MedmnistSource) else ()


def _chooses(source: Rule) -> LabelRule | MedmnistSource | None:
    """Return what gives a scan the first of its findings as class, if the source does so."""
    rule = source.label if isinstance(source, ScanRules) else source
    if isinstance(rule, LabelRule | MedmnistSource) and rule.findings and rule.several == "first":
        return rule
    return None


def manifest_schema() -> dict[str, Any]:
    """Return the JSON schema of a manifest, as kept in `data_manifests/schema.json`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema()}
