"""YAML of a manifest, without aliases and repeated keys; records scalars that YAML does not read as text.

YAML 1.1 reads an unquoted `no` as a Boolean, `010` as eight and `2020-01-01` as a date. An error about the
converted value would not show what the file contains.
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
_TYPES = {
    "bool": "a Boolean",
    "null": "null",
    "int": "a number",
    "float": "a number",
    "timestamp": "a date or time",
    "value": "a special value",
}
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
"""Decimal notation of a whole number, as Python prints it."""

_CLOCK = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
"""Times of day, which YAML 1.1 reads as numbers of base 60."""

MAY_BE_SECRET = {"url", "user", "password", "token"}
"""Keys whose values messages do not show, because they may contain a secret."""


class NonDecimalInt(int):
    """Whole number in another notation than the decimal one: `010`, `0x10`, `1_000`."""


@dataclass(frozen=True)
class NonTextScalar:
    """Unquoted scalar that YAML does not read as a text.

    Attributes:
        path: keys and positions of the scalar; if it is a key itself, the last item is `[key]`.
        text: text in the file.
        kind: YAML type, the last word of the tag.
        line: line number, from 1.
    """

    path: tuple[Hashable, ...]
    text: str
    kind: str
    line: int

    def rest_of(self, loc: tuple[object, ...]) -> list[str] | None:
        """Return the items of a validation error's location after this path, or None if it is elsewhere.

        The location may have names of union members between the items of the path.
        """
        rest = iter(map(str, loc))
        return list(rest) if all(str(part) in rest for part in self.path) else None

    def error(self) -> ManifestError:
        """Return the error for the user, without the text if it may be a secret."""
        shown = not MAY_BE_SECRET & set(map(str, self.path))
        field = ".".join(str(part) for part in self.path if part != "[key]")
        if not self.text:
            return ManifestError(
                f"line {self.line}: the value is empty",
                field=field,
                remedy='Write the value, or "" for an empty text.',
            )
        return ManifestError(
            f"line {self.line}: YAML reads this as {_TYPES[self.kind]}, but a text is required",
            field=field,
            value=self.text if shown else None,
            remedy=f'Put it in quotes: "{self.text}".' if shown else "Put it in quotes.",
        )


class _Loader(PlainLoader):
    def construct_whole_number(self, node: yaml.ScalarNode) -> int:
        """Return a number whose type records whether its notation is decimal."""
        number: int = self.construct_yaml_int(node)
        return number if _WHOLE.fullmatch(node.value) else NonDecimalInt(number)


_Loader.add_constructor(f"{_TAG}int", _Loader.construct_whole_number)


def read_yaml(text: str) -> tuple[Any, list[NonTextScalar]]:
    """Return the content of a document, and its unquoted scalars that YAML does not read as text.

    No key of a manifest has a date, a time or a lone `=` as value, so these are errors everywhere, as are
    keys other than texts and whole numbers.

    Raises:
        ManifestError: there is an alias, a repeated key, or a key or value that is misread in any place.
        yaml.YAMLError, RecursionError, ValueError, TypeError: the document is not valid.
    """
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None, []
        scalars = list(_non_text_scalars(root, ()))
        return loader.construct_document(root), scalars
    except NotPlainError as error:
        raise ManifestError(
            yaml_problem(error), field=error.key or "manifest", remedy=error.remedy
        ) from error
    finally:
        loader.dispose()


def with_text(body: Any, scalar: NonTextScalar) -> Any:
    """Return a copy of a document with this scalar as text, as if it were in quotes."""

    def replaced(part: Any, path: tuple[Hashable, ...]) -> Any:
        if not path:
            return scalar.text
        if isinstance(part, list):
            return [replaced(one, path[1:]) if at == path[0] else one for at, one in enumerate(part)]
        return {key: replaced(one, path[1:]) if key == path[0] else one for key, one in part.items()}

    return replaced(body, scalar.path)


def _non_text_scalars(node: yaml.Node, path: tuple[Hashable, ...]) -> Iterator[NonTextScalar]:
    if isinstance(node, yaml.SequenceNode):
        for at, item in enumerate(node.value):
            yield from _non_text_scalars(item, (*path, at))
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            found = _non_text(key, (*path, name, "[key]"))
            if found is not None:
                if found.kind != "int" or not _WHOLE.fullmatch(found.text):
                    raise found.error()
                name = int(name)
                yield NonTextScalar((*path, name, "[key]"), found.text, found.kind, found.line)
            yield from _non_text_scalars(value, (*path, name))
    else:
        found = _non_text(node, path)
        if found is not None:
            if found.kind in {"timestamp", "value"} or _CLOCK.fullmatch(found.text):
                raise found.error()
            yield found


def _non_text(node: yaml.Node, path: tuple[Hashable, ...]) -> NonTextScalar | None:
    """Return the record of a scalar, or None if it is a text, quoted, or has an explicit tag."""
    kind = node.tag.removeprefix(_TAG)
    if not isinstance(node, yaml.ScalarNode) or node.style or kind not in _TYPES:
        return None
    return NonTextScalar(path, node.value, kind, node.start_mark.line + 1)
