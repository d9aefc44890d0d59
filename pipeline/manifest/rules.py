"""Rules of a manifest for patients, attributes, geometry and the published test split."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, model_validator

from pipeline.manifest.table_names import table_name
from pipeline.scan_attributes import SCAN_ATTRIBUTES

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Names that are used in file names: letters, digits, dot, hyphen, underscore; at most 64 characters."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
TableName = Annotated[Name, AfterValidator(table_name)]
"""Name that is used in tables: of the dataset, a class or a finding."""

Text = Annotated[str, Field(max_length=2000)]
PathText = Annotated[str, Field(min_length=1, max_length=1000)]
Column = Annotated[str, Field(min_length=1, max_length=200)]


def _pattern_with_group(text: str) -> str:
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    if groups < 1:
        raise ValueError("the pattern needs one group in parentheses, which captures the value")
    return text


Pattern = Annotated[str, Field(max_length=300), AfterValidator(_pattern_with_group)]
"""Regular expression whose first group is the value."""


class Rule(BaseModel):
    """Base class of all parts of a manifest. It is frozen and refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ImageCheck(Rule):
    """Check of a patient table: a row is used only if its image matches the image of the source."""

    path: PathText = Field(
        description="npz file in MedMNIST layout with the images that the table was made for."
    )
    min_correlation: float = Field(0.9, gt=0, le=1, description="Smallest Pearson correlation of a match.")


class PatientRule(Rule):
    """Source of a scan's patient; exactly one of `tag`, `column`, `pattern`, `table`."""

    tag: Name | None = Field(None, description="DICOM keyword, for example PatientID.")
    column: Column | None = Field(None, description="Column of the source's table, or of `table`.")
    pattern: Pattern | None = Field(
        None, description="Regular expression searched in the relative path; its first group is the patient."
    )
    prefix: Annotated[str, Field(max_length=64, pattern=r"^[^\x00-\x1f]*$")] = Field(
        "",
        description="Prefix of every patient id of the source, so that equal ids of several sources differ.",
    )
    table: PathText | None = Field(None, description="Separate CSV table with one row per scan.")
    keys: tuple[Column, ...] = Field(
        (), description="Columns of `table` that identify a scan, e.g. split, index."
    )
    verify_images: ImageCheck | None = Field(
        None, description="Images to verify; a row of `table` is used only if the images agree."
    )
    unmatched: Literal["reject", "own_in_test", "own"] = Field(
        "reject",
        description="Treatment of scans without a patient: refuse them, make each its own patient in the "
        "published test split only (refused elsewhere), or make each its own patient everywhere.",
    )
    optional: bool = Field(
        False, description="Continue without patients, with a note, if `table` does not exist."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.table is not None:
            if self.column is None or not self.keys or self.tag or self.pattern:
                raise ValueError("table requires keys and column, and excludes tag and pattern")
        elif sum(rule is not None for rule in (self.tag, self.column, self.pattern)) != 1:
            raise ValueError("give exactly one of tag, column, pattern, table")
        elif self.keys or self.verify_images or self.optional:
            raise ValueError("keys, verify_images and optional require table")
        for name in ("prefix", "unmatched"):
            if self.tag and name in self.model_fields_set:
                raise ValueError(f"{name} requires column, pattern or table")
        return self


class AspectRule(Rule):
    """Ratio of pixel width to pixel height, for files that were resized to another shape."""

    column: Column = Field(description="Column with pixel width divided by pixel height.")
    missing: float | None = Field(
        None, gt=0.1, lt=10, description="Value for empty cells; without it, scans with one are refused."
    )


class AttributeColumn(Rule):
    """Column of an attribute whose name or values have several spellings."""

    column: Column | Annotated[tuple[Column, ...], Field(min_length=1, max_length=8)] = Field(
        description="Column, or several spellings of its name, of which the table has one."
    )
    values: dict[str, Annotated[str, Field(max_length=32)]] = Field(
        default_factory=dict,
        description="Value in the table -> value to store; other values are not changed.",
    )

    @property
    def spellings(self) -> tuple[str, ...]:
        """Possible names of the column."""
        return (self.column,) if isinstance(self.column, str) else self.column


_COLUMNS: dict[str, Any] = {
    attribute.key: (Column | AttributeColumn | None, Field(None, description=attribute.column))
    for attribute in SCAN_ATTRIBUTES.values()
}
_Columns: Any = create_model("_Columns", __base__=Rule, **_COLUMNS)


class AttributeRule(_Columns):
    """Optional columns that are stored, coarsened, in the record table."""

    def columns(self) -> dict[str, AttributeColumn]:
        """Return key -> column of the attributes that are given."""
        given = {attribute.key: getattr(self, attribute.key) for attribute in SCAN_ATTRIBUTES.values()}
        return {
            key: rule if isinstance(rule, AttributeColumn) else AttributeColumn(column=rule)
            for key, rule in given.items()
            if rule is not None
        }


class GeometryRule(Rule):
    """Conversion of a scan to a square image."""

    fit: Literal["pad", "crop"] = Field(
        "pad", description="Pad the shorter side with black, or crop to the centre."
    )
    native_size: int | None = Field(
        None, ge=8, le=4096, description="Largest image size to store; scans are not up-sampled beyond it."
    )


class SplitRule(Rule):
    """Use of a published split. All other scans are pooled and split again by patient."""

    keep_test: Name | None = Field(
        None, description="Published split whose test part becomes the test split."
    )
    test_part: str = Field("test", max_length=64, description="Name of the test part of that split.")


Word = Annotated[str, Field(pattern=r"^[A-Z0-9_ ]{1,16}$")]


class ExpectRule(Rule):
    """Expected scans, by header or table. A scan without the value there is not checked."""

    modalities: tuple[Word, ...] = Field((), max_length=16, description="DICOM modalities, e.g. CR, DX.")
    views: tuple[Word, ...] = Field((), max_length=16, description="View positions, e.g. PA, AP.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.modalities and not self.views:
            raise ValueError("give modalities, views, or both")
        return self
