"""The rules a manifest may give on patients, attributes, geometry and the kept test split."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, model_validator

from pipeline.manifest.table_names import table_name
from pipeline.scan_attributes import SCAN_ATTRIBUTES

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Names that end up in file names: letters, digits, dot, hyphen, underscore; at most 64."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
TableName = Annotated[Name, AfterValidator(table_name)]
"""A name that lands in tables: of the dataset, a class or a finding."""

Text = Annotated[str, Field(max_length=2000)]
PathText = Annotated[str, Field(min_length=1, max_length=1000)]
Column = Annotated[str, Field(min_length=1, max_length=200)]


def _with_a_group(text: str) -> str:
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    if groups < 1:
        raise ValueError("needs one group in parentheses that holds what is wanted")
    return text


Pattern = Annotated[str, Field(max_length=300), AfterValidator(_with_a_group)]
"""A regular expression whose first group is what is wanted."""


class Rule(BaseModel):
    """Base of all manifest parts: frozen, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ImageCheck(Rule):
    """Images that must look like the source's own row before the patient table is believed for it."""

    path: PathText = Field(
        description="An npz file in MedMNIST layout with the images the table was made for."
    )
    min_correlation: float = Field(0.9, gt=0, le=1, description="Smallest Pearson correlation of a match.")


class PatientRule(Rule):
    """How a scan's patient is known; exactly one of `tag`, `column`, `pattern`, `table`."""

    tag: Name | None = Field(None, description="DICOM keyword, for example PatientID.")
    column: Column | None = Field(None, description="Column of the source's table, or of `table`.")
    pattern: Pattern | None = Field(
        None, description="Regular expression searched in the relative path; its first group is the patient."
    )
    prefix: Annotated[str, Field(max_length=64, pattern=r"^[^\x00-\x1f]*$")] = Field(
        "",
        description="Put before every patient of the source, to keep equal numbers of several sources apart.",
    )
    table: PathText | None = Field(None, description="A separate CSV table with one row a scan.")
    keys: tuple[Column, ...] = Field(
        (), description="Columns of `table` that name a scan, e.g. split, index."
    )
    verify_images: ImageCheck | None = Field(None, description="Believe `table` only where the images agree.")
    unmatched: Literal["reject", "own_in_test", "own"] = Field(
        "reject",
        description="A scan without a patient is refused, or is its own patient in the kept test split "
        "(refused elsewhere), or its own patient anywhere.",
    )
    optional: bool = Field(False, description="Go on without patients (and say so) where `table` is absent.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.table is not None:
            if self.column is None or not self.keys or self.tag or self.pattern:
                raise ValueError("a patient table needs `keys` and `column`, and no tag or pattern")
        elif sum(rule is not None for rule in (self.tag, self.column, self.pattern)) != 1:
            raise ValueError("give exactly one of tag, column, pattern, table")
        elif self.keys or self.verify_images or self.optional:
            raise ValueError("keys, verify_images and optional belong to a patient table")
        for name in ("prefix", "unmatched"):
            if self.tag and name in self.model_fields_set:
                raise ValueError(f"{name} belongs to column, pattern or table")
        return self


class AspectRule(Rule):
    """Width over height of a stored pixel, where files were squeezed to another shape."""

    column: Column = Field(description="Column with pixel width over pixel height.")
    missing: float | None = Field(
        None, gt=0.1, lt=10, description="Value where the cell is empty; without it such a scan is refused."
    )


class AttributeColumn(Rule):
    """A column whose spelling or values differ from the plain ones."""

    column: Column | Annotated[tuple[Column, ...], Field(min_length=1, max_length=8)] = Field(
        description="The column, or several spellings of its name of which the table has one."
    )
    values: dict[str, Annotated[str, Field(max_length=32)]] = Field(
        default_factory=dict, description="Found value -> value that it stands for; others stay as found."
    )

    @property
    def spellings(self) -> tuple[str, ...]:
        """The names that the column may have."""
        return (self.column,) if isinstance(self.column, str) else self.column


_COLUMNS: dict[str, Any] = {
    attribute.key: (Column | AttributeColumn | None, Field(None, description=attribute.column))
    for attribute in SCAN_ATTRIBUTES.values()
}
_Columns: Any = create_model("_Columns", __base__=Rule, **_COLUMNS)


class AttributeRule(_Columns):
    """Optional columns that are kept, coarsened, in the record table."""

    def columns(self) -> dict[str, AttributeColumn]:
        """Return key of the attribute -> where it stands, of those that are given."""
        given = {attribute.key: getattr(self, attribute.key) for attribute in SCAN_ATTRIBUTES.values()}
        return {
            key: rule if isinstance(rule, AttributeColumn) else AttributeColumn(column=rule)
            for key, rule in given.items()
            if rule is not None
        }


class GeometryRule(Rule):
    """How a scan becomes a square image."""

    fit: Literal["pad", "crop"] = Field(
        "pad", description="Pad the shorter side with black, or crop centrally."
    )
    native_size: int | None = Field(
        None, ge=8, le=4096, description="Largest image size worth storing: nothing is up-sampled beyond it."
    )


class SplitRule(Rule):
    """What is kept of the published split; everything else is pooled and split anew by patient."""

    keep_test: Name | None = Field(None, description="Published split whose test part stays the test split.")
    test_part: str = Field("test", max_length=64, description="Name of its test part.")


Word = Annotated[str, Field(pattern=r"^[A-Z0-9_ ]{1,16}$")]


class ExpectRule(Rule):
    """What the scans should be, by header or table; what is not named there is not judged."""

    modalities: tuple[Word, ...] = Field((), max_length=16, description="DICOM modalities, e.g. CR, DX.")
    views: tuple[Word, ...] = Field((), max_length=16, description="View positions, e.g. PA, AP.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.modalities and not self.views:
            raise ValueError("give modalities, views, or both")
        return self
