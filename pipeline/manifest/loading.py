"""Loading of manifest files, with errors that name the field and the remedy."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.errors import ManifestError
from pipeline.manifest.kinds.table import KINDS
from pipeline.manifest.model import Manifest, manifest_schema
from pipeline.manifest.yaml_reading import MAY_BE_SECRET, NonTextScalar, read_yaml, with_text

MAX_BYTES = 2**20
_SEE = "See data_manifests/README.md."

_OTHER_FORM = {"string_type", "int_type", "literal_error", "tuple_type", "model_type", "dict_type"}
_UNION_MEMBER = re.compile(
    r"(constrained-\w+|str|int|[A-Z]\w*(Rule|Column)|(literal|tuple|dict|function-\w+)\[.*)$"
)
"""Names of union members, which pydantic inserts between the keys of an error's location."""


def load_manifest(path: Path) -> Manifest:
    """Read and check a manifest; its data need not exist yet.

    Raises:
        ManifestError: the file is missing, too large or not YAML, or a key is missing, unknown or wrong.
    """
    path = Path(path)
    body, scalars = _parse(_text(path), path.name)
    if not isinstance(body, dict):
        raise ManifestError("a manifest must be a mapping of keys to values", field=path.name, remedy=_SEE)
    try:
        return Manifest.model_validate(body).located(path.absolute().parent)
    except ValidationError as error:
        raise _explained(error, body, scalars) from error


def _text(path: Path) -> str:
    if not path.is_file():
        raise ManifestError(
            "the manifest does not exist",
            field="MANIFEST",
            value=str(path),
            remedy="Name a YAML file in data_manifests/.",
        )
    if path.stat().st_size > MAX_BYTES:
        raise ManifestError(
            f"the manifest is larger than {MAX_BYTES} bytes", field=path.name, remedy="Shorten it."
        )
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise ManifestError(
            "cannot be read as UTF-8 text", field=path.name, remedy="Save it as UTF-8."
        ) from error


def _parse(text: str, name: str) -> tuple[Any, list[NonTextScalar]]:
    try:
        return read_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise ManifestError(f"not valid YAML{where}", field=name, remedy="Correct that line.") from error
    except (RecursionError, ValueError, TypeError) as error:
        raise ManifestError("not a valid YAML document", field=name, remedy=_SEE) from error


def _explained(error: ValidationError, body: Any, scalars: list[NonTextScalar]) -> ManifestError:
    # A misread scalar also explains pydantic's other errors.
    found = [(scalar, loc) for scalar in scalars if (loc := _location(error, scalar)) is not None]
    if not found:
        return _manifest_error(error)
    scalar, loc = found[0]
    if scalar.text and loc[-1] != "[key]":
        try:
            Manifest.model_validate(with_text(body, scalar))
        except ValidationError as quoted:
            # Quotes would not make this value valid, so report what would still be wrong.
            if any(one["loc"] == loc for one in quoted.errors()):
                return _manifest_error(quoted, loc)
    return scalar.error()


def _location(error: ValidationError, scalar: NonTextScalar) -> tuple[int | str, ...] | None:
    """Return the location of the error that the misread scalar causes, or None."""
    for one in error.errors():
        unquoted = one["type"] == "literal_error" and repr(scalar.text) in one["ctx"]["expected"]
        rest = scalar.rest_of(one["loc"])
        if (
            (one["type"] == "string_type" or unquoted)
            and rest is not None
            and all(map(_UNION_MEMBER.match, rest))
        ):
            return one["loc"]
    return None


def _manifest_error(error: ValidationError, loc: tuple[int | str, ...] = ()) -> ManifestError:
    """Return the most specific of pydantic's errors below a location."""
    every = [one for one in error.errors() if one["loc"][: len(loc)] == loc]
    # pydantic also calls a list too short if its items are wrong.
    inner = {one["loc"][:length] for one in every for length in range(len(one["loc"]))}
    found = [one for one in every if one["type"] != "too_short" or one["loc"] not in inner]
    # A misspelt key is also reported as missing, and an error in a mapping also as a wrong type.
    order = {"extra_forbidden": 0, "value_error": 1, "missing": 2}
    entry = min(found, key=lambda one: order.get(one["type"], 4 if one["type"] in _OTHER_FORM else 3))
    parts = [str(part) for part in entry["loc"] if not _UNION_MEMBER.match(str(part))]
    if parts[:1] == ["sources"] and len(parts) > 2 and parts[2] in KINDS:
        del parts[2]  # pydantic's name of the union member
    field, problem, value = ".".join(parts), entry["msg"].rstrip("."), entry.get("input")
    if entry["type"] == "extra_forbidden":
        missing = [str(one["loc"][-1]) for one in found if one["type"] == "missing"]
        near = [
            name
            for keys in (missing, _known_keys())
            for name in difflib.get_close_matches(parts[-1], keys, n=1)
        ]
        known = parts[-1] in _known_keys() and parts[-1] not in missing
        remedy = f"Did you mean {near[0]!r}?" if near and not known else f"It is not allowed here. {_SEE}"
        return ManifestError("unknown key", field=field, remedy=remedy)
    if MAY_BE_SECRET & set(parts):
        value, hint = None, "Write the name of an environment variable, as ${NAME}."
        if "url" not in parts and entry["type"] == "string_pattern_mismatch":
            return ManifestError("the manifest must not contain a secret", field=field, remedy=hint)
    if entry["type"] == "missing":
        return ManifestError("a required key is missing", field=field, remedy=f"Add it. {_SEE}")
    if entry["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        return ManifestError(
            "kind is missing or unknown", field=field, remedy=f"Use one of: {', '.join(KINDS)}."
        )
    return ManifestError(problem.removeprefix("Value error, "), field=field, value=_short(value), remedy=_SEE)


def _short(value: object) -> object:
    return value if isinstance(value, str | int | float) and len(repr(value)) <= 80 else None


def _known_keys() -> list[str]:
    schema = manifest_schema()
    parts = [schema, *schema["$defs"].values()]
    return sorted({name for part in parts for name in part.get("properties", ())})
