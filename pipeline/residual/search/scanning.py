"""The scan: searches each file's path and content, unpacked level by level, for one set of values."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipeline.residual.coincidence import (
    MIN_BYTES_WHEN_COMPRESSED,
    MIN_BYTES_WHEN_DECODED,
    counts_as_hit,
)
from pipeline.residual.search.archives import PIXEL_ROWS, archived_parts, is_packed, is_taken_apart
from pipeline.residual.search.escapes import ENCODED, unescaped_parts
from pipeline.residual.search.limits import MAX_DEPTH, MAX_FILE_BYTES, MAX_TEXT_DEPTH, Budget
from pipeline.residual.search.matcher import Matcher
from pipeline.residual.search.own_texts import OwnTexts
from pipeline.residual.values.numbers import MIN_LENGTH_IN_NUMBERS, reads_as_text, split_numbers
from pipeline.residual.values.spellings import MIN_FOLDED_LENGTH, is_too_short, spellings

_BLOCK_BYTES = 64 * 2**20
_OVERLAP_BYTES = 64 * 2**10


class FindingKind(StrEnum):
    """Kinds of findings."""

    FOUND = "found"
    TOO_SHORT = "value too short to be meaningful"
    NOT_SEARCHED = "not searched"


@dataclass(frozen=True)
class Finding:
    """A finding of the scan. It never contains the value itself, but `file` may: keep it private.

    Attributes:
        kind: a value was found, a value was too short to search for, or content could not be searched.
        value_number: position of the value among those given (-1 if the finding is not about a value).
        file: path relative to the folder (empty for `TOO_SHORT`).
        inside: unpacked containers, for example `gzip > base64`; `path` for the path itself.
        detail: the encoding in which the value was found, or why content was not searched.
    """

    kind: FindingKind
    value_number: int = -1
    file: str = ""
    inside: str = ""
    detail: str = ""


def problems(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings except values that were too short: values found, and content not searched."""
    return [finding for finding in findings if finding.kind is not FindingKind.TOO_SHORT]


def scan_for_values(
    folder: Path, values: Iterable[str], *, files: Iterable[str] | None = None
) -> list[Finding]:
    """Search the contents and paths of all files below `folder` for identifying values.

    Each value is searched for as UTF-8, Latin-1, UTF-16 and UTF-32 in any case; within base64 (every
    alignment), hexadecimal, HTML, URL and JSON escapes; and inside gzip, zlib, zip, PNG chunks and decoded
    Parquet columns, nested. Links are not followed; their targets are searched as text. Archives of kinds
    that Phosphor does not write, such as bzip2, are reported as not searched.
    Short values count only if they are delimited, and very short ones not in base64, hexadecimal and noise
    (`coincidence.py`). Values under 16 characters do not count within arrays of numbers (`numbers.py`).

    Args:
        folder: the folder to search.
        values: names, ids, dates, UIDs, file names. Values under 4 characters are reported as `TOO_SHORT`.
        files: relative names to search instead of the whole tree.

    Returns:
        One finding per value, file and packing, and one for any content that could not be searched (beyond
        the limits of `limits.py`, damaged, encrypted). No finding means that everything was searched.
    """
    findings: list[Finding] = []
    wanted: dict[int, tuple[str, ...]] = {}
    for number, value in enumerate(values):
        if is_too_short(value.strip()):
            findings.append(Finding(FindingKind.TOO_SHORT, number))
        else:
            wanted[number] = (value.strip(),)
    scan = ValueScan(wanted)
    names = walk(folder) if files is None else iter(files)
    for name in names:
        findings.extend(scan.search_file(folder, name))
    return findings


class ValueScan:
    """The patterns of one scan, and the remaining bytes it may unpack.

    Args:
        values: number of each value -> the texts in which it may be written, none too short.
        own: texts that an output may contain unchanged; None counts every occurrence.
    """

    def __init__(self, values: Mapping[int, tuple[str, ...]], own: OwnTexts | None = None) -> None:
        exact: dict[bytes, tuple[int, ...]] = {}
        folded: dict[bytes, tuple[int, ...]] = {}
        self._values = values
        for number, texts in values.items():
            owner = (number,)
            for text in texts:
                for pattern in spellings(text):
                    lower = pattern.lower()
                    # An exact occurrence is also found ignoring case, so one of the two searches is enough.
                    group, key = (folded, lower) if len(lower) >= MIN_FOLDED_LENGTH else (exact, pattern)
                    others = group.get(key)
                    group[key] = owner if others is None or others == owner else (*others, number)
        self._own, self._cut = own, False
        self._as_written = b""
        self._exact, self._folded = Matcher(exact, self._counts), Matcher(folded, self._counts_folded)
        self._budget = Budget()  # renewed for every file

    def search_file(self, folder: Path, name: str) -> list[Finding]:
        """Search one file's path, then its content."""
        self._budget = Budget()
        found: dict[tuple[int, str, str], Finding] = {}
        for finding in self._search(os.fsencode(name), name, ("path",), MAX_DEPTH - 1, 0):
            found.setdefault((finding.value_number, finding.inside, finding.kind), finding)
        for finding in self._search_content(folder / name, name):
            found.setdefault((finding.value_number, finding.inside, finding.kind), finding)
        return list(found.values())

    def _counts(self, data: bytes, start: int, end: int) -> bool:
        if not counts_as_hit(data, start, end):
            return False
        return self._own is None or not self._own.hold(data, start, end, cut=self._cut)

    def _counts_folded(self, _folded: bytes, start: int, end: int) -> bool:
        """Judge an occurrence that was found ignoring case by its original bytes."""
        return self._counts(self._as_written, start, end)

    def _encoding_of(self, number: int, pattern: bytes) -> str:
        forms = (form for text in self._values[number] for form in spellings(text).items())
        return next((encoding for form, encoding in forms if pattern in {form, form.lower()}), "")

    def _search_content(self, path: Path, name: str) -> Iterator[Finding]:
        try:
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                yield from self._search(os.fsencode(path.readlink()), name, ("link",), MAX_DEPTH, 0)
            elif stat.S_ISDIR(status.st_mode):
                return
            elif not stat.S_ISREG(status.st_mode):
                yield Finding(FindingKind.NOT_SEARCHED, file=name, detail="not a regular file")
            elif status.st_size <= MAX_FILE_BYTES:
                for data, numbers in split_numbers(path.read_bytes()):
                    yield from self._search(data, name, (), 0, 0, numbers=numbers)
            else:
                yield Finding(FindingKind.NOT_SEARCHED, file=name, detail="too large to be unpacked")
                yield from self._search_blocks(path, name)
        except OSError as error:
            yield Finding(FindingKind.NOT_SEARCHED, file=name, detail=f"unreadable ({error.strerror})")

    def _search_blocks(self, path: Path, name: str) -> Iterator[Finding]:
        tail = b""
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                yield from self._search(tail + block, name, (), MAX_DEPTH, 0)
                tail = block[-_OVERLAP_BYTES:]

    def _search(
        self,
        data: bytes,
        name: str,
        trail: tuple[str, ...],
        depth: int,
        text_depth: int,
        *,
        numbers: bool = False,
        least: int = 0,
    ) -> Iterator[Finding]:
        inside = " > ".join(trail)
        inherited = least
        self._cut = text_depth > 0
        self._as_written = data
        hits = self._folded.find(data.lower())
        hits |= self._exact.find(data)
        if is_taken_apart(data):
            least = MIN_BYTES_WHEN_COMPRESSED
        for number, pattern in sorted(hits.items()):
            if numbers and min(map(len, self._values[number])) < MIN_LENGTH_IN_NUMBERS:
                continue
            # A long run of one character decodes to shorter runs of any length.
            if len(pattern) >= least and not (least and len(set(pattern) - {0}) == 1):
                yield Finding(FindingKind.FOUND, number, name, inside, self._encoding_of(number, pattern))
        if depth >= MAX_DEPTH and is_packed(data):
            yield Finding(FindingKind.NOT_SEARCHED, file=name, inside=inside, detail="nested too deep")
        for part in archived_parts(data, self._budget) if depth < MAX_DEPTH else ():
            if part.problem:
                where = " > ".join((*trail, part.how))
                yield Finding(FindingKind.NOT_SEARCHED, file=name, inside=where, detail=part.problem)
            if part.data:
                pixels = part.how == PIXEL_ROWS and not reads_as_text(part.data)
                for piece, inner in split_numbers(part.data):
                    yield from self._search(
                        piece,
                        name,
                        (*trail, part.how),
                        depth + 1,
                        text_depth,
                        numbers=numbers or pixels or inner,
                    )
        if self._budget.left <= 0:
            yield Finding(
                FindingKind.NOT_SEARCHED, file=name, inside=inside, detail="one file unpacks to too much"
            )
        elif text_depth < MAX_TEXT_DEPTH and not numbers:
            noise = text_depth == 0 and not reads_as_text(data)
            for part in unescaped_parts(data):
                self._budget.spend(len(part.data))
                vague = noise or part.how in ENCODED
                yield from self._search(
                    part.data,
                    name,
                    (*trail, part.how),
                    depth + 1,
                    text_depth + 1,
                    least=MIN_BYTES_WHEN_DECODED if vague else inherited,
                )


def walk(folder: Path) -> Iterator[str]:
    """Yield the relative names of all files, links and empty folders below `folder`, sorted."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        here = Path(parent)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in sorted([*names, *links]):
            yield (here / name).relative_to(folder).as_posix()
        if not names and not folders and here != folder:
            yield here.relative_to(folder).as_posix()
