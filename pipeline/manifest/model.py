"""Model of a manifest, and its JSON schema."""

from __future__ import annotations

import functools
import operator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, GetCoreSchemaHandler, PrivateAttr, field_serializer, model_validator
from pydantic_core import CoreSchema

from pipeline.errors import ManifestError
from pipeline.manifest.kinds.scan_rules import SourceRule
from pipeline.manifest.kinds.table import KINDS
from pipeline.manifest.paths import expand_path
from pipeline.manifest.rules import ExpectRule, GeometryRule, Rule, SplitRule, TableName, Text
from pipeline.storage import digest_of


class _OfAnyKind:
    """Annotation with which pydantic validates a source by the rule of its `kind`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        rules = functools.reduce(operator.or_, (kind.rule for kind in KINDS.values()))
        return handler.generate_schema(Annotated[rules, Field(discriminator="kind")])


Source = Annotated[SourceRule, _OfAnyKind()]


class Manifest(Rule):
    """Data manifest, as returned by `load_manifest`; paths are relative to its file."""

    format_version: Literal[1] = Field(1, description="Version of this format.")
    name: TableName = Field(description="Short name of the dataset.")
    description: Text = Field("", description="Description of the dataset for readers.")
    license: Text = Field("", description="Licence of the scans.")
    citation: Text = Field("", description="Publication to cite.")
    access: Text = Field(
        "", description="How to obtain the scans: address, and required registration or agreement."
    )
    classes: tuple[TableName, ...] | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Class names, in any order; default all classes found. Labels are indices of the sorted "
        "names.",
    )
    priority: tuple[TableName, ...] | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Findings that are classes, in descending priority, if a scan may have several findings.",
    )
    sources: tuple[Source, ...] = Field(min_length=1, max_length=16, description="Sources of the scans.")
    geometry: GeometryRule = Field(
        default_factory=GeometryRule, description="Conversion of a scan to a square image."
    )
    expect: ExpectRule | None = Field(
        None,
        description="Expected modalities and views; others are flagged, or refused if the settings say so.",
    )
    split: SplitRule = Field(default_factory=SplitRule, description="Use of a published split.")

    _folder: Path = PrivateAttr(default_factory=Path.cwd)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: a name is listed twice")
        known = {name for source in self.sources for name in source.published_names}
        if self.split.keep_test is not None and self.split.keep_test not in known:
            raise ValueError(
                f"split.keep_test: {self.split.keep_test!r} is not a published split of any source"
            )
        if len({source.findings for source in self.sources}) > 1:
            raise ValueError("sources: all sources must have the same findings")
        self._check_priority()
        return self

    @field_serializer("classes")
    def _by_name(self, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Return the classes sorted, so that their order does not change the digest."""
        return None if classes is None else tuple(sorted(classes))

    def _check_priority(self) -> None:
        """Check that `priority` orders the findings if a scan may have several."""
        choosing = [source for source in self.sources if source.takes_first]
        found = {name for source in choosing for name in source.findings}
        wanted = found if self.classes is None else found & set(self.classes)
        if self.priority is None:
            if len(wanted) > 1:
                written = [name for name in self.classes or sorted(wanted) if name in wanted]
                raise ValueError(
                    "priority: required, because a scan may have several findings; list them in descending "
                    f"priority, such as priority: [{', '.join(written)}], or set several: refuse"
                )
            return
        if not choosing:
            raise ValueError("priority: not allowed, because no source chooses between several findings")
        if len(set(self.priority)) != len(self.priority):
            raise ValueError("priority: a name is listed twice")
        for name in self.priority:
            if name not in wanted:
                raise ValueError(f"priority: {name!r} is not both a finding and a class")
        missing = sorted(wanted - set(self.priority))
        if missing:
            raise ValueError(f"priority: {', '.join(missing)} must be listed too")

    @property
    def findings(self) -> tuple[str, ...]:
        """Names of the findings of a multi-label manifest, sorted; otherwise empty."""
        return self.sources[0].findings

    @property
    def ranked(self) -> tuple[str, ...]:
        """Findings that are classes, in descending priority."""
        if self.priority is not None:
            return self.priority
        return tuple(name for name in self.findings if self.classes is None or name in self.classes)

    def located(self, folder: Path) -> Self:
        """Return this manifest with paths relative to `folder`."""
        self._folder = folder
        return self

    def resolve(self, text: str, field: str) -> Path:
        """Return an absolute path for a path written in the manifest.

        Raises:
            ManifestError: an environment variable in the path is not set.
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
        """Return the absolute path, or None if it does not exist or contains a variable that is not set."""
        path, missing = expand_path(text, self._folder)
        return path if not missing and path.exists() else None

    def digest(self) -> str:
        """Return the sha256 (hex) of the content of the manifest.

        The digest excludes the manifest's own location and the access to a server: instance UIDs are the same
        everywhere.
        """
        left_out = {at: set(one.how_reached) for at, one in enumerate(self.sources) if one.how_reached}
        return digest_of(self.model_dump(mode="json", exclude={"sources": left_out} if left_out else None))


def manifest_schema() -> dict[str, Any]:
    """Return the JSON schema of a manifest, as stored in `data_manifests/schema.json`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema()}
