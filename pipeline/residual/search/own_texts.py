"""Recognises texts of this program in an output, by their words and their context.

A patient may be called Fields or Long, and reports have a key `fields` and a sentence on long runs. Therefore
no word is excluded because the program uses it. An occurrence is, if the text around it is the program's too.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

_PACKAGES = ("pipeline", "flows", "models")
_TEMPLATES = {".j2", ".html", ".css", ".yaml", ".yml", ".json"}
_NOT_WRITTEN = {"phantom", "residual"}
"""Folders whose texts are in no output: the phantom's invented identities, and this scanner."""

_MAX_FILE_BYTES = 2**20
_ENTITY = b"&"
_WORD = re.compile(rb"&(?:#[0-9]+|[a-z]+);|[a-z0-9\x80-\xff]+")
"""A word, or a character that HTML writes as an entity: the apostrophe of `patient&#39;s` is no word."""
_FILLED_IN = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}|\{[^{}\s]*\}|%[-+.0-9]*[sdrfg]", re.DOTALL)
_QUOTED = re.compile(r"\"([^\"\n]*)\"|'([^'\n]*)'")
_COMMENT = re.compile(r"(?m)^\s*#.*$")

_REACH = 160
_NEAR = 8
_CONTEXT = 3
_SENTENCE = 3
_OPENS = re.compile(rb"(?:^|[\"'`>|(\[{,:;=\n#*/])[ \t*`]*$|[.!?] +$")
_CLOSES = re.compile(rb"^[ \t*`]*(?:$|[\"'`<|)\]},:;=.\n/])|^ +[0-9]")
_KEY_OPENS = re.compile(rb"(?:^|[{,\n\[(\s])[ \t]*[\"']?$")
_KEY_CLOSES = re.compile(rb"^[\"']?[ \t]*(?::|=(?!=))")
_TAG_OPENS, _TAG_CLOSES = re.compile(rb"</?$"), re.compile(rb"^[\s>/]")
_TAG = re.compile(r"</?([a-z][a-z0-9]*)[\s>/]")
_SLUG = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[_-][A-Za-z0-9]+)+")
_IN_WORD = re.compile(rb"[a-z0-9_\x80-\xff]")
_HEADING_OPENS = re.compile(rb"<(?:th|dt|option|h[1-6])[^<>]*>\s*$|\"field_name\": ?\"$|\{\"name\": ?\"$")
_HEADING_CLOSES = re.compile(rb"^\s*</(?:th|dt|option|h[1-6])>|^\", ?\"(?:pandas_type|field_name)\"")
_FOLDERS = frozenset(
    (b"cohort", b"checkpoint", b"candidates", b"audit", b"release", b"evaluation", b"images", b"dicom",
     b"shards", b"state", b"grids", b"labels", b"records", b"metadata", b"pixels", b"report", b"recipe")
)  # fmt: skip
"""Folders of an output, and names of files with several possible suffixes."""

_FOLDER_OPENS, _FOLDER_CLOSES = re.compile(rb"(?:^|[/\"'])$"), re.compile(rb"^[/.]")
_GAPS = re.compile(rb"[\x00\x1f]")
_MAX_HEADER = 8192

Words = tuple[bytes, ...]


class OwnTexts:
    """Recognises bytes that are part of a text of the program or of the manifest.

    - A sentence of at least three words counts if the three words on either side of the bytes, as far as the
      sentence extends, are those of the sentence.
    - A text of two words counts if both occur together, between quotes, tags or the like, or between the end
      of a sentence and a number. A setting with one of its choices is such a text.
    - A single word counts only as a key: before a colon or an equals sign, as the heading of a table, in a
      CSV header whose cells are all known, as a folder of an output, or as the name of a tag.
    - A name of several words joined by `_` or `-` in the manifest, such as the name of the data set, counts
      if all of it occurs as one word.

    Args:
        texts: sentences (citation, licence, description), keys and values of the manifest.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._texts = tuple(texts)
        self._slugs = sorted({text.lower().encode() for text in self._texts if _SLUG.fullmatch(text)})
        self._own: frozenset[Words] | None = None
        self._places: dict[bytes, list[tuple[Words, int]]] = {}
        self._judged = functools.lru_cache(maxsize=100_000)(self._stands)

    def hold(self, data: bytes, start: int, end: int, *, cut: bool = False) -> bool:
        """Return whether `data[start:end]` (ASCII or UTF-8) is part of one of these texts there.

        Args:
            data: the buffer.
            start: start of the bytes.
            end: end of the bytes.
            cut: whether the buffer is a piece of one that is searched too, so that a text may continue beyond
                it.
        """
        found = data[start:end]
        if 0 in found:
            return False
        left, right = data[max(start - _REACH, 0) : start], data[end : end + _REACH]
        # A zero byte or a cell separator ends the context.
        left, right = _GAPS.split(left)[-1], _GAPS.split(right, maxsplit=1)[0]
        left, found, right = left.lower(), found.lower(), right.lower()
        # A key occurs in every row with different numbers: this check comes first, as it is the cheapest.
        if (found,) in self._known() and _key((found,), left[-_NEAR:], right[:_NEAR]):
            return True
        if self._judged(left, found, right, cut) or self._in_slug(left, found, right):
            return True
        if _TAG_OPENS.search(left) and _TAG_CLOSES.search(right) and found in _program_tags():
            return True
        return self._in_csv_header(data, end)

    def _known(self) -> frozenset[Words]:
        if self._own is None:
            self._own = _program_texts() | {words for text in self._texts if (words := _words(text))}
            for words in self._own:
                for place, word in enumerate(words):
                    self._places.setdefault(word, []).append((words, place))
        return self._own

    def _stands(self, left: bytes, found: bytes, right: bytes, cut: bool) -> bool:
        self._known()
        window = left + found + right
        spans = [match.span() for match in _WORD.finditer(window) if not match[0].startswith(_ENTITY)]
        here = [n for n, (a, b) in enumerate(spans) if a < len(left) + len(found) and b > len(left)]
        if not here:
            return False
        words = tuple(window[a:b] for a, b in spans)
        first, last = here[0], here[-1]
        before, after = window[: spans[first][0]], window[spans[last][1] :]
        for own, place in self._places.get(words[first], ()):
            size = last - first + 1
            if own[place : place + size] != words[first : last + 1]:
                continue
            if len(own) == size:
                if size == 1 and any(is_ours(own, before, after) for is_ours in _SINGLE):
                    return True
                if size > 1 and (size >= _SENTENCE or (_OPENS.search(before) and _CLOSES.search(after))):
                    return True
            elif len(own) < _SENTENCE:
                begin, stop = first - place, first - place + len(own)
                if begin >= 0 and words[begin:stop] == own:
                    around = window[: spans[begin][0]], window[spans[stop - 1][1] :]
                    if _OPENS.search(around[0]) and _CLOSES.search(around[1]):
                        return True
            elif _agrees(own, place, words, (first, last), cut=cut):
                return True
        return False

    def _in_slug(self, left: bytes, found: bytes, right: bytes) -> bool:
        window, first, last = left + found + right, len(left), len(left) + len(found)
        for slug in self._slugs:
            begin = window.find(slug, max(last - len(slug), 0), first + len(slug))
            stop = begin + len(slug)
            edges = window[max(begin - 1, 0) : begin], window[stop : stop + 1]
            if begin >= 0 and not any(map(_IN_WORD.match, edges)):
                return True
        return False

    def _in_csv_header(self, data: bytes, end: int) -> bool:
        stop = data.find(b"\n", 0, _MAX_HEADER)
        if stop < end or b"," not in data[:stop]:
            return False
        cells = [_words(cell) for cell in data[:stop].decode("utf-8", "replace").split(",")]
        known = self._known()
        return all(cell in known for cell in cells)


def _agrees(own: Words, place: int, words: Words, here: tuple[int, int], *, cut: bool) -> bool:
    """Return whether the words around a position are those of the sentence, as far as both extend."""
    first, last = here
    size = last - first + 1
    same = 0
    for step in range(1, _CONTEXT + 1):
        for mine, theirs, edge in (
            (place - step, first - step, first - step < 0),
            (place + size - 1 + step, last + step, last + step >= len(words)),
        ):
            if not 0 <= mine < len(own):
                continue
            if edge and cut:
                continue
            if edge or own[mine] != words[theirs]:
                return False
            same += 1
    return same >= min(2, len(own) - size)


def _key(_own: Words, before: bytes, after: bytes) -> bool:
    return bool(_KEY_OPENS.search(before) and _KEY_CLOSES.search(after))


def _heading(_own: Words, before: bytes, after: bytes) -> bool:
    return bool(_HEADING_OPENS.search(before) and _HEADING_CLOSES.search(after))


def _folder(own: Words, before: bytes, after: bytes) -> bool:
    return own[0] in _FOLDERS and bool(_FOLDER_OPENS.search(before) and _FOLDER_CLOSES.search(after))


_SINGLE = (_key, _heading, _folder)
"""The contexts in which a single word is recognised as a text of the program."""


def _words(text: str) -> Words:
    found = _WORD.findall(text.lower().encode("utf-8", "replace"))
    return tuple(word for word in found if not word.startswith(_ENTITY))


@functools.cache
def _program_texts() -> frozenset[Words]:
    """Return the texts of the program's files as words, without docstrings and comments."""
    codes, pages = _program_files()
    texts = [text for code in codes for text in _of_code(code)]
    texts += [f"{field} {choice}" for field, choice in _choices(codes)]
    texts += [text for page in pages for text in _of_template(page)]
    return frozenset(words for text in texts for words in map(_words, _FILLED_IN.split(text)) if words)


@functools.cache
def _program_tags() -> frozenset[bytes]:
    """Return the names of the tags in the program's pages."""
    return frozenset(name.encode() for page in _program_files()[1] for name in _TAG.findall(page))


@functools.cache
def _program_files() -> tuple[tuple[ast.Module, ...], tuple[str, ...]]:
    """Return the parsed modules, and the templates and similar files without their comments."""
    root = Path(__file__).resolve().parents[3]
    codes: list[ast.Module] = []
    pages: list[str] = []
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if _NOT_WRITTEN & set(path.relative_to(root).parts) or not path.is_file():
                continue
            if path.stat().st_size > _MAX_FILE_BYTES:
                continue
            if path.suffix == ".py":
                codes.append(ast.parse(path.read_text(encoding="utf-8")))
            elif path.suffix in _TEMPLATES:
                pages.append(_COMMENT.sub("", path.read_text(encoding="utf-8")))
    return tuple(codes), tuple(pages)


def _of_template(text: str) -> Iterator[str]:
    yield text
    for part in _FILLED_IN.findall(text):
        for quoted in _QUOTED.findall(part):
            yield from quoted


def _of_code(tree: ast.Module) -> Iterator[str]:
    """Yield the string constants of a module, except docstrings, and its names of fields and keywords."""
    silent: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            silent.add(id(node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg


def _choices(codes: Iterable[ast.Module]) -> Iterator[tuple[str, str]]:
    """Yield each field of a class with its possible texts: of a `Literal`, an enumeration or a default."""
    named: dict[str, set[str]] = {}
    fields: list[tuple[str, ast.AnnAssign]] = []
    for tree in codes:
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                named.setdefault(node.targets[0].id, set()).update(_literals(node.value))
            elif isinstance(node, ast.ClassDef):
                values = [part.value for part in node.body if isinstance(part, ast.Assign)]
                if any(isinstance(base, ast.Name) and base.id.endswith("Enum") for base in node.bases):
                    named.setdefault(node.name, set()).update(_strings(*values))
                fields += [
                    (part.target.id, part)
                    for part in node.body
                    if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
                ]
    for name, field in fields:
        types = {part.id for part in ast.walk(field.annotation) if isinstance(part, ast.Name)}
        default = field.value.args[:1] if isinstance(field.value, ast.Call) else [field.value]
        found = _literals(field.annotation) | _strings(*filter(None, default))
        for choice in sorted(found.union(*(named.get(one, set()) for one in types))):
            yield name, choice


def _literals(node: ast.AST) -> set[str]:
    """Return the texts of all `Literal[...]` below a node."""
    parts = [part for part in ast.walk(node) if isinstance(part, ast.Subscript)]
    literals = [part for part in parts if isinstance(part.value, ast.Name) and part.value.id == "Literal"]
    return _strings(*(part.slice for part in literals))


def _strings(*nodes: ast.AST) -> set[str]:
    found = {part.value for node in nodes for part in ast.walk(node) if isinstance(part, ast.Constant)}
    return {text for text in found if isinstance(text, str)}
