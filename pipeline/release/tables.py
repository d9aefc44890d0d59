"""Tables of a release: one row per image as CSV and Parquet, and the list that MONAI reads."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import TamperedError
from pipeline.release.conditions import (
    NO_CONDITIONS,
    ConditionColumns,
    columns_of_schema,
    read_conditions,
)
from pipeline.release.layout import (
    COLUMNS,
    CSV_NAME,
    DATALIST_NAME,
    FORMAT_VERSION,
    MAX_IMAGES,
    MAX_TABLE_BYTES,
    PARQUET_NAME,
    image_name,
    numbered_by_name,
)
from pipeline.storage import read_json, write_json, write_parquet, write_text

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_TEXT_COLUMNS = ("sample_id", "file_name", "class", "checkpoint_digest", "sampler")
_MAX_TEXT = 512
_MAX_ROW_BYTES = 2048


def table_rows(accepted: pd.DataFrame, image_size: tuple[int, int]) -> list[dict[str, Any]]:
    """Return the metadata rows of accepted candidates, in their order.

    The columns are `COLUMNS`, followed by those of the conditions, if the candidates have any.
    """
    import pandas as pd

    height, width = image_size

    def known(value: Any, kind: type) -> Any:
        return None if pd.isna(value) else kind(value)

    return [
        {
            "sample_id": str(row["sample_id"]),
            "file_name": image_name(str(row["class"]), str(row["sample_id"])),
            "class": str(row["class"]),
            "label": int(row["label"]),
            "synthetic": True,
            "seed": known(row["seed"], int),
            "checkpoint_digest": known(row["checkpoint_digest"], str) or None,
            "sampler": known(row["sampler"], str),
            "num_steps": known(row["num_steps"], int),
            "guidance_scale": known(row["guidance_scale"], float),
            "width": width,
            "height": height,
            "format_version": FORMAT_VERSION,
            **asked,
        }
        for row, asked in zip(accepted.to_dict("records"), read_conditions(accepted)[1], strict=True)
    ]


def schema(conditions: ConditionColumns = NO_CONDITIONS) -> pa.Schema:
    """Return the Parquet schema of `metadata.parquet`; the columns of the conditions come last."""
    import pyarrow as pa

    kinds = {name: pa.string() for name in _TEXT_COLUMNS}
    kinds |= {"synthetic": pa.bool_(), "seed": pa.int64(), "guidance_scale": pa.float64()}
    fields = [pa.field(name, kinds.get(name, pa.int32())) for name in COLUMNS]
    return pa.schema([*fields, *conditions.fields()])


def write_tables(
    folder: Path,
    rows: list[dict[str, Any]],
    classes: dict[str, int],
    conditions: ConditionColumns = NO_CONDITIONS,
) -> None:
    """Write `metadata.csv`, `metadata.parquet` and `datalist.json`; equal rows give equal bytes."""
    import pyarrow as pa

    write_text(folder / CSV_NAME, _csv_text(rows, conditions))
    (folder / PARQUET_NAME).parent.mkdir(exist_ok=True)
    write_parquet(folder / PARQUET_NAME, pa.Table.from_pylist(rows, schema=schema(conditions)))
    write_json(folder / DATALIST_NAME, datalist(rows, classes, conditions))


def datalist(
    rows: list[dict[str, Any]], classes: dict[str, int], conditions: ConditionColumns = NO_CONDITIONS
) -> dict[str, Any]:
    """Return the list in the layout of the Medical Segmentation Decathlon, as MONAI reads it.

    Read it with `load_decathlon_datalist(path, is_segmentation=False, data_list_key="training")`.
    """
    return {
        "name": "synthetic X-rays",
        "description": "Synthetic images of a gated release; not for clinical use.",
        "synthetic": True,
        "modality": {"0": "X-ray"},
        "tensorImageSize": "2D",
        "labels": {str(label): name for name, label in classes.items()},
        "numTraining": len(rows),
        "numTest": 0,
        "training": [
            {
                "image": row["file_name"],
                "label": row["label"],
                "class": row["class"],
                **{name: row[name] for name in conditions.names},
            }
            for row in rows
        ],
        "test": [],
    }


def read_rows(folder: Path, num_images: int) -> list[dict[str, Any]]:
    """Read and check the tables of a release.

    Sizes, schema and row count are checked before the content is decoded.

    Args:
        folder: the release.
        num_images: number of images in it.

    Returns:
        The metadata rows, with columns `COLUMNS` and those of the conditions.

    Raises:
        TamperedError: a table is malformed, or the tables disagree; the message names the file.
    """
    conditions, rows = _read_parquet(folder, num_images)
    path = folder / CSV_NAME
    if (
        path.stat().st_size > _MAX_ROW_BYTES * (num_images + 1)
        or path.read_bytes() != _csv_text(rows, conditions).encode()
    ):
        raise _wrong(CSV_NAME, f"does not hold the rows of {PARQUET_NAME}")
    for row in rows:
        if row["synthetic"] is not True:
            raise _wrong(PARQUET_NAME, "has a row that is not marked as synthetic")
        if row["format_version"] != FORMAT_VERSION:
            raise _wrong(PARQUET_NAME, "has another format version")
        if row["file_name"] != image_name(str(row["class"]), str(row["sample_id"])):
            raise _wrong(PARQUET_NAME, "has a file name that does not match class and id")
        problem = conditions.value_problem(row)
        if problem:
            raise _wrong(PARQUET_NAME, problem)
    classes = {row["class"]: row["label"] for row in rows}
    if any(row["label"] != classes[row["class"]] for row in rows) or not numbered_by_name(classes):
        raise _wrong(PARQUET_NAME, "does not number the classes by the sorted names of their folders")
    if read_json(folder / DATALIST_NAME, role=DATALIST_NAME) != datalist(rows, classes, conditions):
        raise _wrong(DATALIST_NAME, f"does not list the rows of {PARQUET_NAME}")
    return rows


def _read_parquet(folder: Path, num_images: int) -> tuple[ConditionColumns, list[dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = folder / PARQUET_NAME
    if num_images > MAX_IMAGES or path.stat().st_size > MAX_TABLE_BYTES:
        raise _wrong(PARQUET_NAME, "is too large")
    try:
        conditions = columns_of_schema(pq.read_schema(path).names, COLUMNS)
        if conditions.problem():
            raise _wrong(PARQUET_NAME, conditions.problem())
        texts = (*_TEXT_COLUMNS, *conditions.attributes)
        source = pq.ParquetFile(path, read_dictionary=list(texts))
        info = source.metadata
        if info.num_rows != num_images:
            raise _wrong(PARQUET_NAME, f"has {info.num_rows} rows for {num_images} images")
        groups = [info.row_group(index) for index in range(info.num_row_groups)]
        if sum(group.total_byte_size for group in groups) > _MAX_ROW_BYTES * (num_images + 64):
            raise _wrong(PARQUET_NAME, "has rows that are too long")
        if not pq.read_schema(path).equals(schema(conditions)):
            raise _wrong(PARQUET_NAME, "does not have the columns of a release")
        table = source.read()
        for name in texts:
            # A short dictionary of long strings could expand to far more than the size of the file.
            for chunk in table.column(name).chunks:
                longest = pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0
                if longest > _MAX_TEXT:
                    raise _wrong(PARQUET_NAME, "has a text that is too long")
        rows: list[dict[str, Any]] = table.cast(schema(conditions)).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _wrong(PARQUET_NAME, "is not a readable Parquet file") from error
    if any(row[name] is None for row in rows for name in ("sample_id", "file_name", "class", "label")):
        raise _wrong(PARQUET_NAME, "has an empty cell")
    return conditions, rows


def _csv_text(rows: list[dict[str, Any]], conditions: ConditionColumns) -> str:
    """Return the rows as CSV (RFC 4180, but lines end in LF): true, false, and empty for none."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = (*COLUMNS, *conditions.names)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in columns])
    return stream.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else value


def _wrong(name: str, problem: str) -> TamperedError:
    return TamperedError(f"{name} {problem}", field="release", remedy="Release the dataset again.")
