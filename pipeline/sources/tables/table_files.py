"""Rows of a CSV or Parquet file as text, with size limits; no error message contains a cell."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import DataError, ManifestError, PhosphorError

MAX_TABLE_BYTES = 2 * 2**30
"""Largest size of a table in bytes, after unpacking."""

MAX_ROWS = 5_000_000
MAX_COLUMNS = 4096
MAX_CELL = 10_000
"""Longest cell of a used column in characters; other cells have the limit of the csv module."""

MAX_LINE = 4 * 2**20
"""Longest line of a CSV in characters, so that a file without line ends is not read as one line."""

MAX_BATCH_BYTES = 256 * 2**20
"""Largest size in bytes of the distinct texts in a batch of rows of a Parquet column."""

_BATCH = 16_384

Line = tuple[int, list[str]]
"""Line number (that of the header is 1), and the cells in the order of the requested columns."""


def read_table(
    path: Path,
    columns: Sequence[tuple[str, ...]],
    *,
    field: str,
    encoding: str = "utf-8",
    delimiter: str = ",",
) -> Iterator[Line]:
    """Yield the requested cells of every row, without white space around them.

    Args:
        path: a `.parquet` file, a gzipped CSV (`.gz`), or a CSV.
        columns: the requested columns, each as the possible spellings of its name.
        field: manifest key of the table, for error messages.
        encoding: character set of a CSV.
        delimiter: delimiter of the cells of a CSV.

    Raises:
        ManifestError: a column is missing.
        DataError: the file does not exist, is not a table or too large, or a line is damaged.
    """
    if not path.is_file():
        raise DataError("the table does not exist", field=field, value=str(path), remedy="Correct its path.")
    if path.stat().st_size > MAX_TABLE_BYTES:
        raise _too_large(field)
    rows = _parquet(path, columns, field) if path.suffix == ".parquet" else None
    for count, row in enumerate(rows or _csv(path, columns, field, encoding, delimiter)):
        if count >= MAX_ROWS:
            raise _too_large(field)
        number, cells = row
        yield number, [_checked(cell, number, field) for cell in cells]


def _csv(
    path: Path, columns: Sequence[tuple[str, ...]], field: str, encoding: str, delimiter: str
) -> Iterator[Line]:
    # A byte order mark is not part of the first column's name.
    encoding = "utf-8-sig" if encoding.lower().replace("_", "-") in {"utf-8", "utf8"} else encoding
    try:
        with io.TextIOWrapper(io.BufferedReader(_Bounded(path, field)), encoding, newline="") as stream:
            lines = csv.reader(_lines(stream, field), delimiter=delimiter)
            header = [name.strip() for name in next(lines, [])]
            where = positions(header, columns, field)
            for line in lines:
                if not line:
                    continue
                if len(line) < len(header) or any(map(str.strip, line[len(header) :])):
                    few = "few" if len(line) < len(header) else "many"
                    raise DataError(
                        f"line {lines.line_num} has too {few} cells", field=field, remedy="Correct the table."
                    )
                yield lines.line_num, [line[position] for position in where]
    except csv.Error as error:
        raise DataError(
            f"line {lines.line_num} is not CSV, or has a cell that is too long",
            field=field,
            remedy="Correct the table, or its delimiter in the manifest.",
        ) from error
    except UnicodeError as error:
        raise DataError(
            f"not {encoding.removesuffix('-sig')} text",
            field=field,
            remedy="Set `encoding` to the table's character set.",
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError("not a readable table", field=field, remedy="Download or save it again.") from error


def _lines(stream: io.TextIOWrapper, field: str) -> Iterator[str]:
    while line := stream.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise DataError(f"a line has more than {MAX_LINE} characters", field=field, remedy="Correct it.")
        yield line


def _parquet(path: Path, columns: Sequence[tuple[str, ...]], field: str) -> Iterator[Line]:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            header = table.schema_arrow.names
            where = positions(header, columns, field)
            names = [header[position] for position in where]
            _check_plain([table.schema_arrow.field(position) for position in where], field)
        # In dictionaries, repeated texts are stored once, so a small file cannot fill the memory with them.
        with pq.ParquetFile(path, read_dictionary=sorted(set(names))) as table:
            meta = table.metadata
            unpacked = sum(meta.row_group(group).total_byte_size for group in range(meta.num_row_groups))
            if meta.num_rows > MAX_ROWS or unpacked > MAX_TABLE_BYTES:
                raise _too_large(field)
            number = 1
            for batch in table.iter_batches(_BATCH, columns=sorted(set(names))):
                for row in zip(*(_texts(batch.column(name), field) for name in names), strict=True):
                    number += 1
                    yield number, list(row)
    except PhosphorError:
        raise
    # pyarrow raises many types on damaged files (ArrowInvalid, OSError, IndexError, UnicodeDecodeError, ...).
    except Exception as error:
        raise DataError("not a readable Parquet table", field=field, remedy="Save it again.") from error


def positions(header: Sequence[str], columns: Sequence[tuple[str, ...]], field: str) -> list[int]:
    """Return the position of each requested column in a header.

    Raises:
        ManifestError: a column is missing. Only a similar name is shown, because the first line of a table
            without a header has patient data.
        DataError: a column occurs twice, or there are too many columns.
    """
    if len(header) > MAX_COLUMNS:
        raise DataError(f"the table has more than {MAX_COLUMNS} columns", field=field, remedy="Correct it.")
    found = []
    for spellings in columns:
        here = [name for name in spellings if name in header]
        if not here:
            near = difflib.get_close_matches(spellings[0], header, n=1, cutoff=0.8)
            remedy = f"Did you mean {near[0]!r}?" if near else f"The table has {len(header)} other columns."
            raise ManifestError(f"the table has no column {spellings[0]!r}", field=field, remedy=remedy)
        if header.count(here[0]) > 1:
            raise DataError(
                f"the table has the column {here[0]!r} twice", field=field, remedy="Rename one of them."
            )
        found.append(header.index(here[0]))
    return found


def _check_plain(fields: Sequence[Any], field: str) -> None:
    import pyarrow.types as kinds

    for column in fields:
        kind = column.type.value_type if kinds.is_dictionary(column.type) else column.type
        if kinds.is_nested(kind) or kinds.is_binary(kind) or kinds.is_large_binary(kind):
            raise DataError(
                f"the column {column.name!r} has nested or binary values",
                field=field,
                remedy="Save it as text or numbers.",
            )


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _texts(column: Any, field: str) -> list[str]:
    import pyarrow as pa

    if not isinstance(column, pa.DictionaryArray):
        return ["" if value is None or _is_nan(value) else str(value) for value in column.to_pylist()]
    if column.dictionary.nbytes > MAX_BATCH_BYTES:
        raise _too_large(field)
    values = [value if isinstance(value, str) else str(value) for value in column.dictionary.to_pylist()]
    return ["" if place is None else values[place] for place in column.indices.to_pylist()]


def _checked(cell: str, number: int, field: str) -> str:
    if len(cell) > MAX_CELL:
        raise DataError(f"line {number} has a cell that is too long", field=field, remedy="Correct it.")
    cell = cell.strip()
    if not cell.isprintable() and any(ord(letter) < 32 and letter not in "\t\r\n" for letter in cell):
        raise DataError(f"line {number} contains control characters", field=field, remedy="Correct it.")
    return cell


def _too_large(field: str) -> DataError:
    return DataError("the table is too large", field=field, remedy="Split it.")


class _Bounded(io.RawIOBase):
    """Bytes of a file, after decompression if it is gzipped, limited to the size of the largest table."""

    def __init__(self, path: Path, field: str) -> None:
        super().__init__()
        self._stream: Any = (gzip.open if path.suffix == ".gz" else open)(path, "rb")
        self._left, self._field = MAX_TABLE_BYTES, field

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data: bytes = self._stream.read(min(len(buffer), 2**20))
        self._left -= len(data)
        if self._left < 0:
            raise _too_large(self._field)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()
