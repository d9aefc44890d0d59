"""Safe YAML of files that people write: plain values only, without aliases and repeated keys."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml


class NotPlainError(yaml.MarkedYAMLError):
    """A document holds an alias or a repeated key.

    Attributes:
        key: the repeated key, else empty.
        remedy: what to do.
    """

    def __init__(self, problem: str, mark: yaml.Mark, *, remedy: str, key: str = "") -> None:
        super().__init__(problem=problem, problem_mark=mark)
        self.key, self.remedy = key, remedy


class PlainLoader(yaml.SafeLoader):
    """A safe loader that refuses aliases (a few bytes could expand to gigabytes) and repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse an alias before it is followed."""
        if self.check_event(yaml.AliasEvent):
            mark = self.get_event().start_mark
            raise NotPlainError("aliases are not allowed", mark, remedy="Write the value out.")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse a key that stands twice in one mapping."""
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise NotPlainError(
                    f"key {key.value!r} stands twice",
                    key.start_mark,
                    remedy="Keep one of them.",
                    key=str(key.value),
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def yaml_problem(error: Exception) -> str:
    """Return what is wrong with a document, and in which line."""
    mark = getattr(error, "problem_mark", None)
    where = f" in line {mark.line + 1}" if mark is not None else ""
    return f"{getattr(error, 'problem', None) or 'unreadable'}{where}"
