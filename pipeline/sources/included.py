"""Which names a manifest's patterns include, and what of a source's folder none of its sources reads."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.manifest import Manifest
from pipeline.manifest.kinds.scan_rules import FolderRule
from pipeline.sources.unread import UNMATCHED

_FILE_KEYS = {"path", "table"}
_ENDING = re.compile(r"(?:\.(?:nii|dcm))?\.[A-Za-z0-9]+$")


def matcher(include: Iterable[str]) -> Callable[[str], bool]:
    """Return what tells whether a relative name matches one of the patterns of a manifest.

    The ending that a pattern spells out matches in any case: one data set holds `.png` and `.PNG`.
    """
    matches = [re.compile(_pattern(text)).fullmatch for text in include]
    return lambda name: any(match(name) for match in matches)


def _pattern(text: str) -> str:
    """Translate a glob with `**` over folders into a regular expression over `/`-separated names."""
    ending = _ENDING.search(text)
    head, tail = (text[: ending.start()], f"(?i:{re.escape(ending.group())})") if ending else (text, "")
    pieces = (
        fnmatch.translate(piece).removeprefix("(?s:").removesuffix(r")\Z") for piece in head.split("**/")
    )
    return f"(?s:{'(?:.*/)?'.join(pieces)}{tail})"


def truly_unread(
    manifest: Manifest, source: FolderRule, root: Path, prefix: str, unread: dict[str, str]
) -> dict[str, str]:
    """Return what of a source's place neither another source nor the manifest itself reads.

    Several sources may share a folder: the first of them tells of what is left.

    Args:
        manifest: the manifest; a source that it does not name (the phantom's own) tells of nothing.
        source: the source.
        root: its absolute path.
        prefix: of the source's names.
        unread: name -> reason, of all that the source itself passes over.
    """
    sharing = [one for one in manifest.sources if isinstance(one, FolderRule) and one.path == source.path]
    if not sharing or sharing[0] is not source:
        return {}
    named = _named_files(manifest, root)
    readers = [reads for one in manifest.sources if (reads := _reader(manifest, one, root)) is not None]

    def is_read(name: str) -> bool:
        return name in named or any(reads(name) for reads in readers)

    return {
        name: why
        for name, why in unread.items()
        if why != UNMATCHED or not is_read(name.removeprefix(prefix))
    }


def _reader(manifest: Manifest, other: object, root: Path) -> Callable[[str], bool] | None:
    """Return what tells whether another source reads a name below `root`, None if it lies elsewhere."""
    place = manifest.present(other.path) if isinstance(other, FolderRule) else None
    if place is None or not isinstance(other, FolderRule):
        return None
    includes = matcher(other.include)
    if root.is_relative_to(place):
        above = "".join(f"{part}/" for part in root.relative_to(place).parts)
        return lambda name: includes(above + name)
    if place.is_relative_to(root):
        below = f"{place.relative_to(root).as_posix()}/"
        return lambda name: name.startswith(below) and includes(name.removeprefix(below))
    return None


def _named_files(manifest: Manifest, root: Path) -> set[str]:
    """Return the names below `root` of tables, lists and archives that the manifest names."""
    found: set[str] = set()
    waiting: list[object] = [manifest.model_dump(mode="json")]
    while waiting:
        body = waiting.pop()
        inner = list(body.values()) if isinstance(body, dict) else body if isinstance(body, list) else []
        waiting += inner
        for path in filter(None, map(manifest.present, _texts(body))):
            if path.is_relative_to(root):
                found.add(path.relative_to(root).as_posix())
    return found


def _texts(body: object) -> list[str]:
    """Return the paths of files that one part of a manifest names: one, several, or one for each name."""
    texts: list[str] = []
    for key, value in body.items() if isinstance(body, dict) else ():
        if key == "lists" and isinstance(value, dict):
            texts += value.values()
        elif key in _FILE_KEYS and isinstance(value, str | list):
            texts += [value] if isinstance(value, str) else value
    return texts
