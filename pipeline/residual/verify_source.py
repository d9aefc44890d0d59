"""Verifies an output against its source: no identifying value of the source is in any byte of the output."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import DataError
from pipeline.progress import track
from pipeline.residual.positive_control import Control, run_control
from pipeline.residual.search.scanning import Finding, FindingKind, ValueScan, walk
from pipeline.residual.values.source_values import BATCH_VALUES, SourceFacts, SourceValues, Value

_MAX_NAMED_FILES = 3
_MAX_KINDS = 100_000


@dataclass
class Leak:
    """One kind of finding: values of one attribute in one encoding. It contains no value.

    Attributes:
        attribute: attribute of the values in the source, for example `PatientName`.
        encoding: encoding of the values, for example `utf-16`.
        inside: unpacked containers, for example `gzip > base64`; `path` for a file name.
        values: number of different values.
        files: files of the output that contain one, sorted; names that themselves contain a value are
            withheld.
    """

    attribute: str
    encoding: str
    inside: str
    values: int
    files: tuple[str, ...]

    def sentence(self) -> str:
        """Return the finding in words, without any value."""
        where = f", inside {self.inside}" if self.inside else ""
        more = len(self.files) - _MAX_NAMED_FILES
        named = ", ".join(self.files[:_MAX_NAMED_FILES]) + (f" and {more} more files" if more > 0 else "")
        count = "1 value" if self.values == 1 else f"{self.values} values"
        return f"found: {self.attribute}, {count}, as {self.encoding}{where}, in {named}"


@dataclass(frozen=True)
class AgainstReport:
    """Result of verifying an output against its source. It contains no identifying value.

    Attributes:
        searched: number of values searched, by kind.
        left_out: number of texts of the source that are not evidence, by reason.
        leaks: findings, one entry per kind of finding.
        not_searched: (file, reason) of everything that could not be searched.
        files: number of files of the output.
        source: facts about the source.
        control: result of the positive control.
    """

    searched: dict[str, int]
    left_out: dict[str, int]
    leaks: tuple[Leak, ...]
    not_searched: tuple[tuple[str, str], ...]
    files: int
    source: SourceFacts
    control: Control

    @property
    def clean(self) -> bool:
        """Whether nothing was found, everything was searched, and the source was read completely."""
        return not self.leaks and not self.not_searched and not self.source.unread

    def body(self) -> dict[str, object]:
        """Return the counts as JSON-serialisable values."""
        return {
            "clean": self.clean,
            "values": sum(self.searched.values()),
            "searched": self.searched,
            "left_out": self.left_out,
            "found": {
                "kinds": len(self.leaks),
                "by_attribute": dict(sorted(_by_attribute(self.leaks).items())),
            },
            "not_searched": len(self.not_searched),
            "files": self.files,
            "source_files": self.source.files,
            "source_files_not_read": self.source.not_read,
            "source_whole": not self.source.unread,
            "control": {
                "values": self.control.values,
                "forms": list(self.control.forms),
                "written": self.control.written,
                "found": self.control.found,
            },
        }


@dataclass
class _Tally:
    """Findings of all batches."""

    values: dict[tuple[str, str, str], set[int]] = field(default_factory=dict)
    files: dict[tuple[str, str, str], set[int]] = field(default_factory=dict)
    unsearched: set[tuple[int, str]] = field(default_factory=set)
    withheld: set[int] = field(default_factory=set)

    def add(self, place: int, finding: Finding, values: dict[int, Value]) -> None:
        if finding.kind is FindingKind.NOT_SEARCHED:
            where = f" (inside {finding.inside})" if finding.inside else ""
            self.unsearched.add((place, finding.detail + where))
            return
        # ASCII in one byte order is also found in the other one, shifted by a byte.
        encoding = finding.detail.removesuffix("-le").removesuffix("-be")
        key = (values[finding.value_number].attribute, encoding, finding.inside)
        if key not in self.values and len(self.values) >= _MAX_KINDS:
            return
        self.values.setdefault(key, set()).add(finding.value_number)
        self.files.setdefault(key, set()).add(place)
        if finding.inside.startswith("path"):
            self.withheld.add(place)


def verify_against(folder: Path, source: SourceValues, *, batch_values: int = BATCH_VALUES) -> AgainstReport:
    """Search every byte, file name and archive of an output for the values of its source.

    First a positive control shows that the scanner finds values of this source in every form.

    Args:
        folder: a release, a cohort, another output, or a whole run.
        source: result of `collect_values`; it stays open.
        batch_values: values searched in one pass over the output, with about 2 KB of memory each.

    Raises:
        DataError: the folder is missing or holds no file.
        PhosphorError: the positive control failed.
    """
    names = list(walk(folder)) if folder.is_dir() else []
    if not names:
        raise DataError(
            "not a folder with files", field="RELEASE", value=str(folder), remedy="Pass an output directory."
        )
    control = run_control(source)
    tally = _Tally()
    _note_unfollowed(folder, names, tally)
    passes = -(-len(source) // batch_values)
    with track("search output", len(names) * passes, unit="files") as progress:
        for batch in source.batches(batch_values):
            values = {value.number: value for value in batch}
            scan = ValueScan({value.number: value.texts for value in batch}, source.own)
            for place, name in enumerate(names):
                for finding in scan.search_file(folder, name):
                    tally.add(place, finding, values)
                progress.update(1)
    return AgainstReport(
        searched=source.counts(),
        left_out=dict(source.left_out.most_common()),
        leaks=tuple(_leaks(tally, names)),
        not_searched=tuple(
            (_shown(place, names, tally.withheld), reason) for place, reason in sorted(tally.unsearched)
        ),
        files=len(names),
        source=source.facts,
        control=control,
    )


def _note_unfollowed(folder: Path, names: list[str], tally: _Tally) -> None:
    """Record what the walk does not enter: links out of the output, and unreadable folders."""
    inside = folder.resolve()
    for place, name in enumerate(names):
        path = folder / name
        if path.is_symlink() and path.exists() and not path.resolve().is_relative_to(inside):
            tally.unsearched.add((place, "a link out of the output, which is not followed"))
    closed: list[OSError] = []
    for _ in os.walk(folder, onerror=closed.append):
        pass
    for error in closed:
        names.append(Path(str(error.filename)).relative_to(folder).as_posix())
        tally.unsearched.add((len(names) - 1, f"unreadable ({error.strerror})"))


def _leaks(tally: _Tally, names: list[str]) -> Iterable[Leak]:
    for key in sorted(tally.values):
        files = tuple(_shown(place, names, tally.withheld) for place in sorted(tally.files[key]))
        yield Leak(*key, values=len(tally.values[key]), files=files)


def _shown(place: int, names: list[str], withheld: set[int]) -> str:
    """Return a file's name, or its position in the sorted listing if the name contains a value."""
    if place in withheld:
        return f"file {place + 1} of {len(names)} in order of names (withheld: the name holds a value)"
    return names[place]


def _by_attribute(leaks: Iterable[Leak]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for leak in leaks:
        counts[leak.attribute] += leak.values
    return counts
