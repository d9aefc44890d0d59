"""The base of all settings: frozen, closed to unknown keys, with one digest."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline.storage import digest_of


class Settings(BaseModel):
    """Base class of every settings section; the section itself lives beside the stage that owns it.

    Declare each field with `Field(default, ge=..., description="...")`: the description is shown to users.
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
