"""Keeps what was read from each file beside a cohort, so that the next ingest reads only changed files."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Ints
from pipeline.artifacts.pixels import PixelShards
from pipeline.ingest.reading.parts import PartRow
from pipeline.ingest.writing.tables import BlockTable
from pipeline.sources.base import ReadRule, ScanTask

NAME = "reads.parquet"
ROWS_A_BLOCK = 1024
_GROUPS_HELD = 4
_LOCATION = {"root", "store", "web"}


class ReadTags:
    """Identifies a file, and the way it is read, by two keyed digests of 8 bytes.

    Two runs give a file the same tag only if they would read the same bytes in the same way. The tag covers
    size, modification time or checksum, the rules of the source, what tables say about the scan, and the
    settings that affect a row.

    Args:
        key: the pseudonym key; without it, nobody can test a guess against a digest.
        settings: text of all settings that affect a row.
    """

    def __init__(self, key: bytes, settings: str) -> None:
        self._key, self._settings = key[:64], settings
        self._rules: dict[ReadRule, str] = {}

    def scan(self, task: ScanTask) -> int:
        """Return the digest of a task's file name as a signed 64-bit integer."""
        return self._number("scan", task.scan_name)

    def tag(self, task: ScanTask) -> int:
        """Return the digest of the file's state and of the way it is read; 0 if the state is unknown."""
        if not task.stamp:
            return 0
        rule = self._rules.get(task.rule)
        if rule is None:
            rule = f"{self._settings}\0{_without_location(task.rule)}"
            self._rules[task.rule] = rule
        return self._number(rule, repr((task.stamp, task.patient, task.pixel_aspect, task.attributes)))

    def _number(self, kind: str, text: str) -> int:
        message = f"{kind}\0{text}".encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(message, digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "little", signed=True)


def _without_location(rule: ReadRule) -> str:
    """Return the text of a rule without the location of the scans, so that a moved folder keeps its tags."""
    return repr(tuple(getattr(rule, name) for name in ReadRule.__slots__ if name not in _LOCATION))


@dataclass(frozen=True)
class FileNumbers:
    """Digests of the names and states of F files.

    Attributes:
        scans: (F,) digests of the names.
        tags: (F,) digests of the states, 0 if the state is unknown or the listing refused the file.
    """

    scans: Ints
    tags: Ints


def number_files(tasks: list[ScanTask], tags: ReadTags) -> FileNumbers:
    """Return the digests of all files, in the order of the tasks."""
    return FileNumbers(
        np.fromiter(map(tags.scan, tasks), np.int64, len(tasks)),
        np.fromiter((0 if task.refusal else tags.tag(task) for task in tasks), np.int64, len(tasks)),
    )


class ReadsWriter:
    """Writes the table of reads. It depends on file times, so the cohort's digest does not cover it.

    Args:
        out: the cohort directory.
        files: digests of the names and states of all files.
    """

    def __init__(self, out: Path, files: FileNumbers) -> None:
        import pyarrow as pa

        schema = pa.schema(
            [("scan", pa.int64()), ("tag", pa.int64()), ("pixels", pa.int64()), ("row", pa.string())]
        )
        self._files = files
        self._table = BlockTable(out / NAME, schema, ROWS_A_BLOCK)
        self._number, self._held = -1, list[dict[str, Any]]()

    def __enter__(self) -> ReadsWriter:
        self._table.__enter__()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            self._flush()
        return self._table.__exit__(*error)

    def add(self, number: int, row: PartRow, pixels: int | None) -> None:
        """Append a row; the rows of one file must follow one another.

        Args:
            number: number of the file.
            row: what was read of one scan in it.
            pixels: position of the scan's image in the cohort, or None if the cohort does not have it.
        """
        if number != self._number:
            self._flush()
            self._number = number
        text = json.dumps(row.body(), separators=(",", ":"))
        self._held.append({"pixels": -1 if pixels is None else pixels, "row": text, "reason": row.reason})

    def _flush(self) -> None:
        """Write the rows of one file, unless the cohort lacks an image that was read from it."""
        rows, self._held = self._held, []
        if not rows or any(row["pixels"] < 0 and not row["reason"] for row in rows):
            return
        scan, tag = int(self._files.scans[self._number]), int(self._files.tags[self._number])
        for row in rows if tag else ():
            self._table.add(scan=scan, tag=tag, pixels=row["pixels"], row=row["row"])


class EarlierReads:
    """Looks up what an earlier ingest read from a file.

    Args:
        folder: the earlier cohort.
        tags: identifies files; made for the settings of the new cohort.
    """

    def __init__(self, folder: Path, tags: ReadTags) -> None:
        import pyarrow.parquet as pq

        self._tags = tags
        self._file = pq.ParquetFile(folder / NAME)
        table = self._file.read(columns=["scan", "tag", "pixels"])
        scans, self._tag, self._pixels = (
            column.combine_chunks().to_numpy(zero_copy_only=False) for column in table.columns
        )
        self._order = np.argsort(scans, kind="stable")
        self._scans = scans[self._order]
        self._shards = PixelShards(folder, role="earlier cohort", mapped=False)
        self._groups: OrderedDict[int, list[str]] = OrderedDict()

    def rows(self, task: ScanTask) -> list[tuple[PartRow, npt.NDArray[np.generic] | None]]:
        """Return what was read from a task's file; empty if it is new, changed, or now read differently."""
        tag = self._tags.tag(task)
        if not tag:
            return []
        scan = self._tags.scan(task)
        first, last = (np.searchsorted(self._scans, scan, side) for side in ("left", "right"))
        found = self._order[first:last]
        if not len(found) or (self._tag[found] != tag).any():
            return []
        return [self._row(int(place)) for place in found]

    def _row(self, place: int) -> tuple[PartRow, npt.NDArray[np.generic] | None]:
        group, within = divmod(place, ROWS_A_BLOCK)
        if group not in self._groups:
            self._groups[group] = self._file.read_row_group(group, columns=["row"]).column(0).to_pylist()
            if len(self._groups) > _GROUPS_HELD:
                self._groups.popitem(last=False)
        row = PartRow.of(json.loads(self._groups[group][within]))
        pixels = int(self._pixels[place])
        return row, self._shards.take([pixels])[0, 0] if pixels >= 0 else None
