"""The positive control: values of the source, written in every form, must all be found."""

from __future__ import annotations

import base64
import gzip
import random
import tempfile
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PhosphorError
from pipeline.residual.coincidence import MIN_BYTES_WHEN_DECODED, counts_by_place
from pipeline.residual.search.scanning import FindingKind, ValueScan, walk
from pipeline.residual.values.source_values import SourceValues, Value
from pipeline.storage import make_private_directory, write_parquet

CONTROL_VALUES = 32
CONTROL_SEED = 0
_LONGEST_NAME = 240
_CANDIDATES = 8
_GAP = "." * 32
"""Separator between values, so that neighbouring values do not affect whether a value counts."""


@dataclass(frozen=True)
class Control:
    """Result of the positive control.

    Attributes:
        values: number of values of the source that were written.
        forms: the forms in which each value was written.
        written: number of values written, over all forms; values too long for a file name are not in paths.
        found: number of written values that the scanner found; the verification fails unless it is all.
    """

    values: int
    forms: tuple[str, ...]
    written: int
    found: int


def run_control(
    source: SourceValues, *, num_values: int = CONTROL_VALUES, seed: int = CONTROL_SEED
) -> Control:
    """Write some values to a temporary private folder in every form, and search for them.

    The folder has mode 0700 and is removed afterwards. In a path, non-ASCII characters are percent-encoded.

    Args:
        source: the values of the source.
        num_values: number of values to draw.
        seed: seed of the draw.

    Raises:
        PhosphorError: a value was not found: the scanner is broken, and finding nothing would mean nothing.
    """
    values = _draw(source, num_values, seed)
    scan = ValueScan({value.number: value.texts for value in values})
    written = found = 0
    missed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="phosphor-control-") as name:
        for form, write in _FORMS.items():
            folder = make_private_directory(Path(name) / form)
            wanted = {value.number for value in write(folder, values)}
            hits = [hit for file in walk(folder) for hit in scan.search_file(folder, file)]
            there = {hit.value_number for hit in hits if hit.kind is FindingKind.FOUND} & wanted
            written, found = written + len(wanted), found + len(there)
            missed += [form] if there != wanted else []
    if missed:
        raise PhosphorError(
            f"the scanner is broken: it missed {written - found} of {written} planted values"
            f" ({', '.join(missed)})",
            field="positive control",
            remedy="Nothing was verified. Report this as a bug of phosphor.",
        )
    return Control(len(values), tuple(_FORMS), written, found)


def _draw(source: SourceValues, num_values: int, seed: int) -> list[Value]:
    """Draw values that are searched for in every form: at least 8 characters, no decimals."""
    total = len(source)
    numbers = random.Random(seed).sample(range(1, total + 1), min(_CANDIDATES * num_values, total))
    long = [value for value in source.pick(numbers) if len(value.text) >= MIN_BYTES_WHEN_DECODED]
    return [value for value in long if not counts_by_place(value.text)][:num_values]


def _plain(folder: Path, values: list[Value]) -> list[Value]:
    (folder / "plain.txt").write_bytes(_GAP.encode().join([b"", *map(_bytes, values), b""]))
    return values


def _utf16(folder: Path, values: list[Value]) -> list[Value]:
    text = _GAP.join(["", *(value.text for value in values), ""])
    (folder / "wide.txt").write_bytes(text.encode("utf-16-le", "surrogatepass"))
    return values


def _base64(folder: Path, values: list[Value]) -> list[Value]:
    lines = [base64.b64encode(_bytes(value)).decode("ascii") for value in values]
    (folder / "encoded.txt").write_bytes(f"\n{_GAP}\n".join(["", *lines, ""]).encode("ascii"))
    return values


def _gzip(folder: Path, values: list[Value]) -> list[Value]:
    (folder / "packed.gz").write_bytes(gzip.compress(_GAP.encode().join([b"", *map(_bytes, values), b""])))
    return values


def _parquet(folder: Path, values: list[Value]) -> list[Value]:
    import pyarrow as pa

    column = pa.array([_bytes(value) for value in values], pa.binary())
    write_parquet(folder / "table.parquet", pa.table({"column": column}), private=True)
    return values


def _path(folder: Path, values: list[Value]) -> list[Value]:
    names = {value.number: urllib.parse.quote(_bytes(value), safe=" ^,=+@") for value in values}
    short = [value for value in values if len(names[value.number]) <= _LONGEST_NAME]
    for value in short:
        (folder / f"{value.number}.{names[value.number]}.x").write_bytes(b"")
    return short


def _bytes(value: Value) -> bytes:
    """Return a value in UTF-8; bytes of a file name that are not UTF-8 are unchanged."""
    try:
        return value.text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return value.text.encode("utf-8", "surrogatepass")


_FORMS: dict[str, Callable[[Path, list[Value]], list[Value]]] = {
    "plain": _plain,
    "UTF-16": _utf16,
    "base64": _base64,
    "gzip": _gzip,
    "Parquet": _parquet,
    "path": _path,
}
