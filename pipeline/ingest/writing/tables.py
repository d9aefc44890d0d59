"""Writes Parquet tables block by block, so that memory does not grow with their length."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.storage import atomic_path


def record_schema() -> Any:
    """Return the Arrow schema of `records.parquet` (`RECORD_COLUMNS`)."""
    import pyarrow as pa

    from pipeline.artifacts.cohort import RECORD_COLUMNS

    numbers = {"original_height": pa.int32(), "original_width": pa.int32(), "spacing_mm": pa.float64()}
    return pa.schema([(name, numbers.get(name, pa.string())) for name in RECORD_COLUMNS])


def rejected_schema() -> Any:
    """Return the Arrow schema of `rejected.parquet`."""
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in ("sample_id", "reason", "source_format")])


class BlockTable:
    """A Parquet file that is written in row groups of fixed length and appears when it is closed.

    Args:
        path: the file, written with mode 0600.
        schema: its Arrow schema.
        block: rows per row group; a change of it changes the bytes of the file.
    """

    def __init__(self, path: Path, schema: Any, block: int) -> None:
        import pyarrow.parquet as pq

        self._path, self._schema, self._block = path, schema, block
        self._rows: list[dict[str, Any]] = []
        self._stack = contextlib.ExitStack()
        temporary = self._stack.enter_context(atomic_path(path, private=True))
        self._writer = self._stack.enter_context(pq.ParquetWriter(temporary, schema, compression="zstd"))

    def __enter__(self) -> BlockTable:
        return self

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            self._flush()
        return self._stack.__exit__(*error)

    def add(self, **row: Any) -> None:
        """Append one row."""
        self._rows.append(row)
        if len(self._rows) >= self._block:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._rows:
            return
        columns = [_column([row[field.name] for row in self._rows], field.type) for field in self._schema]
        self._writer.write_table(
            pa.Table.from_arrays(columns, schema=self._schema), row_group_size=self._block
        )
        self._rows = []


def _column(values: list[Any], kind: Any) -> Any:
    """Return an Arrow array from its buffers; `pyarrow.array` would import pandas, taking half a second."""
    import pyarrow as pa

    missing = np.array([value is None for value in values], dtype=bool)
    valid = pa.py_buffer(np.packbits(~missing, bitorder="little")) if missing.any() else None
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        # Bytes of a file name that are not UTF-8 are surrogates, which a string column cannot hold.
        texts = [
            value if isinstance(value, bytes) else (value or "").encode("utf-8", "backslashreplace")
            for value in values
        ]
        ends = np.cumsum([0, *[len(text) for text in texts]], dtype=np.int32)
        return pa.Array.from_buffers(
            kind, len(values), [valid, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
        )
    numbers = np.array([0 if value is None else value for value in values], dtype=kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(values), [valid, pa.py_buffer(numbers)])


def read_ids(path: Path, positions: list[int]) -> list[str]:
    """Return the sample ids of the records at some positions, with one row group in memory at a time.

    Args:
        path: `records.parquet`.
        positions: row numbers, in any order.
    """
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    ends = np.cumsum([file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)])
    found: dict[int, str] = {}
    for group in np.unique(np.searchsorted(ends, positions, side="right")).tolist():
        start = int(ends[group - 1]) if group else 0
        column = file.read_row_group(group, columns=["sample_id"]).column(0)
        found |= {p: column[p - start].as_py() for p in positions if start <= p < ends[group]}
    return [found[position] for position in positions]
