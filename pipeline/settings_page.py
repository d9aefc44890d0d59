"""All settings of a recipe, as records and a page: `python -m pipeline.settings_page > docs/settings.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel

from pipeline.recipe import Recipe

_HEAD = """\
# Settings

Every key of a recipe, with its default, the values it takes and what it does. Set a key with
`--set KEY=VALUE` (the value is YAML), or in a recipe file under its section. A recipe file holds only what
differs from the defaults. These commands print all values of a recipe, and where each one comes from:

    phosphor recipe show cpu
    phosphor recipe show cpu --set train.num_steps=200

This page is generated from the settings classes; do not edit it. After a change of a class:

    python -m pipeline.settings_page > docs/settings.md
"""

_TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "`true` or `false`",
    "null": "`null`",
}


@dataclass(frozen=True)
class Setting:
    """Key of a recipe.

    Attributes:
        key: dotted name, for instance `train.num_steps`.
        default: default value as YAML on one line.
        values: description of the allowed values.
        description: description of the setting.
    """

    key: str
    default: str
    values: str
    description: str


@dataclass(frozen=True)
class Section:
    """Settings of one class, without those of its inner sections.

    Attributes:
        name: dotted name; empty for the recipe itself.
        description: description of the section.
        settings: keys of the section, in the order of the class.
    """

    name: str
    description: str
    settings: tuple[Setting, ...]


def sections() -> list[Section]:
    """Return every section of a recipe in the order of the classes; inner sections follow their outer one."""
    return list(_sections(Recipe, Recipe.model_json_schema(), "", "The recipe itself."))


def leaf_values(settings: BaseModel) -> dict[str, str]:
    """Return the value of every key of resolved settings: dotted key -> YAML on one line."""
    found: dict[str, str] = {}
    body = settings.model_dump(mode="json")
    for name in type(settings).model_fields:
        inner = getattr(settings, name)
        if isinstance(inner, BaseModel):
            found |= {f"{name}.{key}": text for key, text in leaf_values(inner).items()}
        else:
            found[name] = as_yaml(body[name])
    return found


def as_yaml(value: Any) -> str:
    """Return a value as YAML on one line, as `--set` reads it."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=sys.maxsize)
    return text.removesuffix("...\n").strip()


def page() -> str:
    """Return the text that `docs/settings.md` must hold."""
    parts = [_HEAD]
    for section in sections():
        title = f"`{section.name}`" if section.name else "Top level"
        rows = "".join(
            f"| `{setting.key}` | `{setting.default}` | {setting.values} | {setting.description} |\n"
            for setting in section.settings
        )
        parts.append(
            f"\n## {title}\n\n{section.description}\n\n"
            f"| key | default | values | what it does |\n|---|---|---|---|\n{rows}"
        )
    return "".join(parts)


def _sections(
    model: type[BaseModel], schema: Mapping[str, Any], prefix: str, description: str
) -> Iterable[Section]:
    definitions = schema.get("$defs", {})
    fields = schema["properties"] if model is Recipe else definitions[model.__name__]["properties"]
    own: list[Setting] = []
    inside: list[Section] = []
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            inside += _sections(kind, schema, f"{prefix}{name}.", _sentence(info.description or ""))
            continue
        values = _values(fields[name], definitions)
        text = _sentence(info.description or "", values)
        default = info.get_default(call_default_factory=True, validated_data={})
        own.append(Setting(prefix + name, as_yaml(_plain(default)), values, text))
    yield Section(prefix.rstrip("."), description, tuple(own))
    yield from inside


def _plain(value: Any) -> Any:
    """Return a default as what its JSON would hold: lists for tuples, text for choices."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def _sentence(text: str, choices: str = "") -> str:
    """Return a description that opens with a capital, unless with a choice, and ends in a full stop."""
    first = text.partition(" ")[0]
    opening = text[:1] if f"`{first}`" in choices else text[:1].upper()
    return opening + text[1:].rstrip(".").replace("|", "\\|") + "."


def _values(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Say in words which values a JSON schema accepts."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rsplit("/", 1)[-1]]
    if "anyOf" in schema:
        return "; or ".join(_values(choice, definitions) for choice in schema["anyOf"])
    if "enum" in schema:
        *others, last = [f"`{choice}`" for choice in schema["enum"]]
        return f"{', '.join(others)} or {last}" if others else last
    if schema["type"] == "object":
        return f"mapping; each value: {_values(schema['additionalProperties'], definitions)}"
    if schema["type"] == "array":
        several = schema.get("prefixItems")
        item = _values(several[0] if several else schema["items"], definitions)
        return f"list{f' of {len(several)}' if several else ''}; each: {item}"
    name = "path" if schema.get("format") == "path" else _TYPES[schema["type"]]
    return name + _range(schema)


def _range(schema: Mapping[str, Any]) -> str:
    """Say in words between which bounds a number lies."""
    at_least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    at_most, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if at_least is not None and at_most is not None:
        return f", {_number(at_least)} to {_number(at_most)}"
    low = f" above {_number(above)}" if above is not None else ""
    low = f", {_number(at_least)} or more" if at_least is not None else low
    high = f", up to {_number(at_most)}" if at_most is not None else ""
    high = f", below {_number(below)}" if below is not None else high
    return low + high


def _number(value: float) -> str:
    return "2^63" if value == 2**63 else f"{value:,}"


if __name__ == "__main__":
    sys.stdout.write(page())
