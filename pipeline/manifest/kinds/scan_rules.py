"""Rules of all kinds of sources, and the additional rules of sources with files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.manifest.label_rules import LabelRule, PublishedRule
from pipeline.manifest.rules import AspectRule, AttributeRule, Column, Name, PathText, PatientRule, Rule
from pipeline.manifest.table_rules import TableRule

Cell = Annotated[str, Field(max_length=200)]
Colour = Literal["refuse", "grey"]
COLOUR = "Treatment of colour images: refuse, or convert by brightness; grey stored as colour is always read."


class SourceRule(Rule):
    """One source in a manifest.

    The class of each kind adds a field `kind`, whose only value is the name of the kind.
    """

    how_reached: ClassVar[frozenset[str]] = frozenset()
    """Keys that describe access to the scans and not the scans; the manifest's digest leaves them out."""

    if TYPE_CHECKING:
        kind: str

    @property
    def published_names(self) -> tuple[str, ...]:
        """Names of the published splits of the source."""
        return ()

    @property
    def findings(self) -> tuple[str, ...]:
        """Names of the findings that a scan may have, sorted; empty if each scan has one label."""
        return ()

    @property
    def takes_first(self) -> bool:
        """Whether the first of several findings becomes the class of a scan."""
        return False

    def not_here(self, present: Callable[[str], Path | None]) -> str:
        """Return the origin of the scans if they are not on this machine yet; empty if they are.

        Args:
            present: function from a path in the manifest to the absolute path, None if it does not exist.
        """
        return ""


class ScanRules(SourceRule):
    """Rules of all sources with files: the files to read, and the metadata of each scan."""

    include: tuple[str, ...] = Field(
        ("**/*",), min_length=1, max_length=16, description="Patterns of the files to read, below `path`."
    )
    table: TableRule | None = Field(None, description="Table with one row per file.")
    label: LabelRule = Field(description="Source of the label.")
    patient: PatientRule | None = Field(
        None, description="Source of the patient; without it, patients are unknown."
    )
    select: dict[Column, Annotated[tuple[Cell, ...], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="Column of the table -> values to select, such as the frontal views; other scans are "
        "left out and counted in a note.",
    )
    published_splits: dict[Name, Column | PublishedRule] = Field(
        default_factory=dict,
        description="Name of a published split -> column of the table with its parts, or a rule for them.",
    )
    attributes: AttributeRule = Field(
        default_factory=AttributeRule, description="Columns to store as attributes."
    )
    pixel_aspect: AspectRule | None = Field(None, description="Correction of non-square pixels.")

    @model_validator(mode="after")
    def _columns_need_a_table(self) -> Self:
        wanted = self.table_columns()
        if wanted and self.table is None:
            raise ValueError(f"column {wanted[0][0]!r} requires a table")
        if self.table is not None:
            pooled = {table.repeated for table in (self.table, *self.table.joins)} - {"refuse", "agree"}
            if "any" in pooled and not self.label.multiple:
                raise ValueError("repeated: any requires a label with several findings")
        return self

    @property
    def published_names(self) -> tuple[str, ...]:
        """Names of the published splits of the source."""
        return tuple(self.published_splits)

    @property
    def findings(self) -> tuple[str, ...]:
        """Names of the findings that a scan may have, sorted; empty if each scan has one label."""
        return self.label.findings

    @property
    def takes_first(self) -> bool:
        """Whether the first of several findings becomes the class of a scan."""
        return bool(self.label.findings) and self.label.several == "first"

    def table_columns(self) -> list[tuple[str, ...]]:
        """Return all columns of the table that are used, each with the possible spellings of its name."""
        names = [*self.label.table_columns, *self.select]
        if self.patient and self.patient.column and not self.patient.table:
            names.append(self.patient.column)
        if self.pixel_aspect:
            names.append(self.pixel_aspect.column)
        names += [rule.column for rule in self.published().values() if rule.column]
        return [(name,) for name in names] + [rule.spellings for rule in self.attributes.columns().values()]

    def published(self) -> dict[str, PublishedRule]:
        """Return the published splits, each as a rule."""
        return {
            name: rule if isinstance(rule, PublishedRule) else PublishedRule(column=rule)
            for name, rule in self.published_splits.items()
        }


class FolderRule(ScanRules):
    """Rules of all folders of files."""

    path: PathText = Field(
        description="Folder, zip or tar archive (or, for DICOM, a DICOMDIR), relative to the manifest; "
        "${VARIABLE} is expanded."
    )


class UntaggedRule(FolderRule):
    """Folder of files whose headers have no patient."""

    @model_validator(mode="after")
    def _no_tag(self) -> Self:
        if self.patient and self.patient.tag:
            raise ValueError("patient.tag requires a DICOM source; use column, pattern or table")
        return self
