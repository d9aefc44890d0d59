"""Reading a manifest file: bounded, without aliases, each mistake named with field and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config import first_problem
from pipeline.errors import ManifestError
from pipeline.manifest import model, rules
from pipeline.manifest.model import Manifest
from pipeline.sources.phantom.settings import PhantomSettings

MAX_BYTES = 2**20
_SEE = "See data_manifests/README.md."


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses aliases (they can expand without bound) and doubled keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse an alias before it is followed."""
        if self.check_event(yaml.AliasEvent):
            raise ManifestError(
                "YAML aliases are not allowed", field="manifest", remedy="Write the value out."
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse a key that stands twice in one mapping."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        doubled = [name for name in names if names.count(name) > 1]
        if doubled:
            raise ManifestError("the key stands twice", field=str(doubled[0]), remedy="Keep one of them.")
        return super().construct_mapping(node, deep)


def load_manifest(path: Path) -> Manifest:
    """Read and check a manifest; the data it names need not be there yet.

    Raises:
        ManifestError: the file is missing, too large or not YAML, or a key is missing, unknown or wrong.
    """
    path = Path(path)
    body = _parse(_text(path), path.name)
    if not isinstance(body, dict):
        raise ManifestError("must be a mapping of keys to values", field=path.name, remedy=_SEE)
    try:
        return Manifest.model_validate(body).located(path.absolute().parent)
    except ValidationError as error:
        raise _explained(error) from error


def _text(path: Path) -> str:
    if not path.is_file():
        raise ManifestError(
            "no such manifest file",
            field="MANIFEST",
            value=str(path),
            remedy="Name a YAML file in data_manifests/.",
        )
    if path.stat().st_size > MAX_BYTES:
        raise ManifestError(
            f"larger than {MAX_BYTES} bytes", field=path.name, remedy="A manifest is a short file."
        )
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise ManifestError(
            "cannot be read as UTF-8 text", field=path.name, remedy="Check the file."
        ) from error


def _parse(text: str, name: str) -> Any:
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise ManifestError(f"not valid YAML{where}", field=name, remedy="Correct that line.") from error
    except (RecursionError, ValueError, TypeError) as error:
        raise ManifestError("not a usable YAML document", field=name, remedy=_SEE) from error


def _explained(error: ValidationError) -> ManifestError:
    field, problem, value = first_problem(error)
    entry = error.errors()[0]
    last = str(entry["loc"][-1]) if entry["loc"] else ""
    if entry["type"] == "extra_forbidden":
        near = difflib.get_close_matches(last, _known_keys(), n=1, cutoff=0.6)
        remedy = f"Did you mean {near[0]!r}?" if near else f"Remove it. {_SEE}"
        return ManifestError("unknown key", field=field, remedy=remedy)
    if entry["type"] == "missing":
        return ManifestError("the key is missing", field=field, remedy=f"Add it. {_SEE}")
    if entry["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        kinds = "dicom, nifti, images, medmnist, phantom"
        return ManifestError("kind is missing or unknown", field=field, remedy=f"Use one of: {kinds}.")
    return ManifestError(problem.removeprefix("Value error, "), field=field, value=_short(value), remedy=_SEE)


def _short(value: object) -> object:
    return value if value is None or len(repr(value)) <= 80 else repr(value)[:77] + "..."


def _known_keys() -> list[str]:
    parts: list[type[BaseModel]] = [PhantomSettings]
    for module in (model, rules):
        found = [part for part in vars(module).values() if isinstance(part, type)]
        parts += [part for part in found if issubclass(part, rules.Rule)]
    return sorted({name for part in parts for name in part.model_fields})
