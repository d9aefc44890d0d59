"""Include patterns of a manifest, and the files of a source's folder that no source reads."""

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
    """Return a function that checks whether a relative name matches one of the patterns.

    A file ending in a pattern matches in any case, because data sets mix `.png` and `.PNG`.
    """
    matches = [re.compile(_pattern(text)).fullmatch for text in include]
    return lambda name: any(match(name) for match in matches)


def _pattern(text: str) -> str:
    """Translate a glob, in which `**` matches folders, into a regular expression for `/`-separated names."""
    ending = _ENDING.search(text)
    head, tail = (text[: ending.start()], f"(?i:{re.escape(ending.group())})") if ending else (text, "")
    pieces = (
        fnmatch.translate(piece).removeprefix("(?s:").removesuffix(r")\Z") for piece in head.split("**/")
    )
    return f"(?s:{'(?:.*/)?'.join(pieces)}{tail})"


def truly_unread(
    manifest: Manifest, source: FolderRule, root: Path, prefix: str, unread: dict[str, str]
) -> dict[str, str]:
    """Return the unread files that neither another source nor the manifest itself reads.

    If several sources share a folder, only the first of them reports its unread files.

    Args:
        manifest: the manifest; nothing is reported for a source outside it (such as a phantom's).
        source: the source.
        root: absolute path of the source.
        prefix: name prefix of the source.
        unread: name -> reason, for all files that the source itself does not read.
    """
    sharing = [one for one in manifest.sources if isinstance(one, FolderRule) and one.path == source.path]
    if not sharing or sharing[0] is not source:
        return {}
    manifest_files = _manifest_files(manifest, root)
    readers = [reads for one in manifest.sources if (reads := _reader(manifest, one, root)) is not None]

    def is_read(name: str) -> bool:
        return name in manifest_files or any(reads(name) for reads in readers)

    return {
        name: reason
        for name, reason in unread.items()
        if reason != UNMATCHED or not is_read(name.removeprefix(prefix))
    }


def _reader(manifest: Manifest, other: object, root: Path) -> Callable[[str], bool] | None:
    """Return a function that checks whether a source reads a name below `root`; None if it is elsewhere."""
    if not isinstance(other, FolderRule) or (place := manifest.present(other.path)) is None:
        return None
    includes = matcher(other.include)
    if root.is_relative_to(place):
        above = "".join(f"{part}/" for part in root.relative_to(place).parts)
        return lambda name: includes(above + name)
    if place.is_relative_to(root):
        below = f"{place.relative_to(root).as_posix()}/"
        return lambda name: name.startswith(below) and includes(name.removeprefix(below))
    return None


def _manifest_files(manifest: Manifest, root: Path) -> set[str]:
    """Return the names below `root` of the tables, lists and archives in the manifest."""
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
    """Return the file paths among the values of a mapping of the manifest."""
    texts: list[str] = []
    for key, value in body.items() if isinstance(body, dict) else ():
        if key == "lists" and isinstance(value, dict):
            texts += value.values()
        elif key in _FILE_KEYS and isinstance(value, str | list):
            texts += [value] if isinstance(value, str) else value
    return texts
