"""YAML of a manifest: no aliases, no doubled keys, and a note of each text that YAML read otherwise.

YAML 1.1 takes a plain `no` for a truth value, `010` for eight and `2020-01-01` for a date. Where a manifest
expects a text, the reader's own value would say nothing of what was written.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.errors import ManifestError
from pipeline.plain_yaml import NotPlainError, PlainLoader, yaml_problem

_TAG = "tag:yaml.org,2002:"
_TAKEN_FOR = {
    "bool": "a truth value",
    "null": "nothing",
    "int": "a number",
    "float": "a number",
    "timestamp": "a date or time",
    "value": "a sign of its own",
}
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
"""A whole number that is written as it is read."""

_CLOCK = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
"""What YAML 1.1 takes for a number of base 60: a time of day, as everybody else reads it."""


MAY_BE_SECRET = {"url", "user", "password", "token"}
"""Keys whose wrong values are not shown: somebody may have written the secret itself."""


class OddNumber(int):
    """A whole number that is written otherwise than it is read: `010`, `0x10`, `1_000`."""


@dataclass(frozen=True)
class Reading:
    """A plain text of the document that YAML does not read as a text.

    Attributes:
        path: keys and positions that lead to it, as they were read; `[key]` at the end if it is a key itself.
        text: what was written.
        kind: what YAML takes it for, the last word of its tag.
        line: its line, counted from 1.
    """

    path: tuple[Hashable, ...]
    text: str
    kind: str
    line: int

    def rest_of(self, place: tuple[object, ...]) -> list[str] | None:
        """Return what of a validation error's place is left behind this one, None if it lies elsewhere.

        Names of union members may stand between.
        """
        rest = iter(map(str, place))
        return list(rest) if all(str(part) in rest for part in self.path) else None

    def error(self) -> ManifestError:
        """Return what to tell of it, without the text where it may be a secret."""
        shown = not MAY_BE_SECRET & set(map(str, self.path))
        field = ".".join(str(part) for part in self.path if part != "[key]")
        if not self.text:
            return ManifestError(
                f"line {self.line}: nothing stands here",
                field=field,
                remedy='Write the value, or "" for an empty text.',
            )
        return ManifestError(
            f"line {self.line}: YAML reads this as {_TAKEN_FOR[self.kind]}, and a text is wanted",
            field=field,
            value=self.text if shown else None,
            remedy=f'Put it in quotes: "{self.text}".' if shown else "Put it in quotes.",
        )


class _Loader(PlainLoader):
    def construct_whole_number(self, node: yaml.ScalarNode) -> int:
        """Return a number that knows whether its text says the same."""
        number: int = self.construct_yaml_int(node)
        return number if _WHOLE.fullmatch(node.value) else OddNumber(number)


_Loader.add_constructor(f"{_TAG}int", _Loader.construct_whole_number)


def read_yaml(text: str) -> tuple[Any, list[Reading]]:
    """Return what a document holds, and all plain texts that YAML reads as something else.

    Keys must be texts or whole numbers, and no value may be a date, a time or a lone `=`: no rule of a
    manifest wants these.

    Raises:
        ManifestError: an alias, a doubled key, or a key or value that is misread wherever it stands.
        yaml.YAMLError, RecursionError, ValueError, TypeError: not a usable document.
    """
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None, []
        readings = list(_readings(root, ()))
        return loader.construct_document(root), readings
    except NotPlainError as error:
        raise ManifestError(
            yaml_problem(error), field=error.key or "manifest", remedy=error.remedy
        ) from error
    finally:
        loader.dispose()


def with_text(body: Any, reading: Reading) -> Any:
    """Return a copy of a document in which a value is the text that was written, as if it stood in quotes."""

    def replaced(part: Any, path: tuple[Hashable, ...]) -> Any:
        if not path:
            return reading.text
        if isinstance(part, list):
            return [replaced(one, path[1:]) if at == path[0] else one for at, one in enumerate(part)]
        return {key: replaced(one, path[1:]) if key == path[0] else one for key, one in part.items()}

    return replaced(body, reading.path)


def _readings(node: yaml.Node, path: tuple[Hashable, ...]) -> Iterator[Reading]:
    if isinstance(node, yaml.SequenceNode):
        for at, item in enumerate(node.value):
            yield from _readings(item, (*path, at))
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            found = _reading(key, (*path, name, "[key]"))
            if found is not None:
                if found.kind != "int" or not _WHOLE.fullmatch(found.text):
                    raise found.error()
                name = int(name)
                yield Reading((*path, name, "[key]"), found.text, found.kind, found.line)
            yield from _readings(value, (*path, name))
    else:
        found = _reading(node, path)
        if found is not None:
            if found.kind in {"timestamp", "value"} or _CLOCK.fullmatch(found.text):
                raise found.error()
            yield found


def _reading(node: yaml.Node, path: tuple[Hashable, ...]) -> Reading | None:
    """Return the note of a plain scalar that is no text; what stands in quotes or bears a tag is meant so."""
    kind = node.tag.removeprefix(_TAG)
    if not isinstance(node, yaml.ScalarNode) or node.style or kind not in _TAKEN_FOR:
        return None
    return Reading(path, node.value, kind, node.start_mark.line + 1)
