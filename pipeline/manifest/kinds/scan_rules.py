"""What every source says of its scans, whatever kind it is of; places of files say more."""

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
COLOUR = "A truly colourful image is refused, or shown by its brightness; grey in colour form is always read."


class SourceRule(Rule):
    """What the manifest says of one source.

    The class of a kind adds a field `kind`, whose only value is the kind's name.
    """

    how_reached: ClassVar[frozenset[str]] = frozenset()
    """Keys that say how the scans are reached, not which they are: no part of the manifest's digest."""

    if TYPE_CHECKING:
        kind: str

    @property
    def published_names(self) -> tuple[str, ...]:
        """The names of the published splits that the source declares."""
        return ()

    @property
    def findings(self) -> tuple[str, ...]:
        """The names of the findings that it may give a scan, sorted; empty where it gives one label."""
        return ()

    @property
    def takes_first(self) -> bool:
        """Whether a scan gets the first of several findings as its class."""
        return False

    def not_here(self, present: Callable[[str], Path | None]) -> str:
        """Return where the scans come from if this machine has none of them yet; empty if it has.

        Args:
            present: gives the absolute path for a path written in the manifest, None if nothing is there.
        """
        return ""


class ScanRules(SourceRule):
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

    @property
    def published_names(self) -> tuple[str, ...]:
        """The names of the published splits that the source declares."""
        return tuple(self.published_splits)

    @property
    def findings(self) -> tuple[str, ...]:
        """The names of the findings that it may give a scan, sorted; empty where it gives one label."""
        return self.label.findings

    @property
    def takes_first(self) -> bool:
        """Whether a scan gets the first of several findings as its class."""
        return bool(self.label.findings) and self.label.several == "first"

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


class UntaggedRule(FolderRule):
    """A folder of files that name no patient inside."""

    @model_validator(mode="after")
    def _no_tag(self) -> Self:
        if self.patient and self.patient.tag:
            raise ValueError("patient.tag belongs to DICOM sources; use column, pattern or table")
        return self
