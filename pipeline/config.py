"""Base class of all settings: frozen, without unknown keys, with one digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import DataError
from pipeline.storage import digest_of, read_json

ModelT = TypeVar("ModelT", bound=BaseModel)


class Settings(BaseModel):
    """Base class of all settings sections. Each section is defined in the package of its stage.

    Declare each field with `Field(default, ge=..., description="...")`; users see the description.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def digest(self) -> str:
        """Return the sha256 (hex) of the settings' canonical JSON."""
        return digest_of(self.model_dump(mode="json"))


def first_problem(error: Any) -> tuple[str, str, object]:
    """Return (dotted field, message, value) of the first error in a pydantic `ValidationError`."""
    entry = error.errors()[0]
    field = ".".join(str(part) for part in entry["loc"])
    value = entry.get("input")
    if isinstance(value, dict | list) or entry["type"] == "missing":
        value = None
    return field, entry["msg"].rstrip("."), value


def read_model(
    kind: type[ModelT], path: Path, *, role: str, remedy: str, error: type[DataError] = DataError
) -> ModelT:
    """Read a JSON file of this project into its model.

    Args:
        kind: model with all fields of the file.
        path: path of the file.
        role: name of the artifact, for the error.
        remedy: remedy if the fields are wrong.
        error: type of the error if the fields are wrong.

    Raises:
        DataError: the file is missing or not JSON, or (as `error`) its fields are missing, unknown or wrong.
    """
    try:
        return kind.model_validate(read_json(path, role=role))
    except ValidationError as problem:
        field, message, value = first_problem(problem)
        raise error(f"{field}: {message}", field=path.name, value=value, remedy=remedy) from problem
