"""What was read from each file, kept beside a cohort so that the next one reads only what has changed."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.pixels import PixelShards
from pipeline.ingest.reading.parts import PartRow
from pipeline.ingest.writing.tables import BlockTable
from pipeline.sources.base import ReadRule, ScanTask

NAME = "reads.parquet"
ROWS_A_BLOCK = 1024
_GROUPS_HELD = 4
_PLACE = {"root", "store", "web"}
_NAMES = tuple(column.name for column in fields(PartRow))


class ReadTags:
    """Names a file and the way it is read by two keyed digests of 8 bytes.

    Two runs give a file the same tag only where the same bytes would be read in the same way: size,
    modification time or checksum, the source's rules, what tables say of the scan, and the settings that
    shape the stored image are all part of it.

    Args:
        key: the pseudonym key; without it no tag can be tested against a guess.
        settings: text of all settings that shape a row.
    """

    def __init__(self, key: bytes, settings: str) -> None:
        self._key, self._settings = key[:64], settings
        self._rules: dict[ReadRule, str] = {}

    def scan(self, task: ScanTask) -> int:
        """Return the number that names a task's file."""
        return self._number("scan", task.scan_name)

    def tag(self, task: ScanTask) -> int:
        """Return the number that names the file's state and the way it is read; 0 if its state is unknown."""
        if not task.stamp:
            return 0
        rule = self._rules.get(task.rule)
        if rule is None:
            rule = f"{self._settings}\0{_without_place(task.rule)}"
            self._rules[task.rule] = rule
        told = (task.stamp, task.patient, task.pixel_aspect, task.attributes)
        return self._number(rule, repr(told))

    def _number(self, kind: str, text: str) -> int:
        message = f"{kind}\0{text}".encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(message, digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "little", signed=True)


def _without_place(rule: ReadRule) -> str:
    """Return all of a rule but where the scans lie: a moved folder is still the same scans."""
    return repr(tuple(getattr(rule, name) for name in ReadRule.__slots__ if name not in _PLACE))


@dataclass(frozen=True)
class FileNumbers:
    """Name and state of every file.

    Attributes:
        scans: (F,) int64 names.
        tags: (F,) int64 states, 0 where nothing can be taken over: state unknown, or refused by the listing.
    """

    scans: npt.NDArray[np.int64]
    tags: npt.NDArray[np.int64]


def number_files(tasks: list[ScanTask], tags: ReadTags) -> FileNumbers:
    """Return the numbers of all files, in the order of the tasks."""
    return FileNumbers(
        np.fromiter((tags.scan(task) for task in tasks), dtype=np.int64, count=len(tasks)),
        np.fromiter(
            (0 if task.refusal else tags.tag(task) for task in tasks), dtype=np.int64, count=len(tasks)
        ),
    )


class ReadsWriter:
    """Writes the table of reads; it lies outside the cohort's digest, as it depends on the files' times.

    Args:
        out: the cohort directory.
        files: names and states of all files.
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
        """Append what was read, file by file.

        Args:
            number: number of the file.
            row: what was read of it.
            pixels: position of the stored image in the cohort, or None if it has none there.
        """
        if number != self._number:
            self._flush()
            self._number = number
        kept = {name: getattr(row, name) for name in _NAMES}
        text = json.dumps(kept, separators=(",", ":"))
        self._held.append({"pixels": -1 if pixels is None else pixels, "row": text, "reason": row.reason})

    def _flush(self) -> None:
        """Write the rows of one file; a good image that is not in the cohort could not be given back."""
        rows, self._held = self._held, []
        if not rows or any(row["pixels"] < 0 and not row["reason"] for row in rows):
            return
        scan, tag = int(self._files.scans[self._number]), int(self._files.tags[self._number])
        for row in rows if tag else ():
            self._table.add(scan=scan, tag=tag, pixels=row["pixels"], row=row["row"])


class EarlierReads:
    """The reads of an earlier cohort, looked up file by file.

    Args:
        folder: the earlier cohort.
        tags: names files; made for the settings of the new cohort.
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
        """Return what was read of a task's file, empty if it is new, changed, or to be read otherwise."""
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
