"""Unpacks what outputs are packed in: PNG chunks, Parquet columns, zip, gzip and zlib anywhere."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pipeline.residual.search.counters import IndexColumn
from pipeline.residual.search.limits import MAX_MEMBERS, Budget, Part

_OPENS_STREAM = np.zeros(2**16, dtype=bool)
_OPENS_STREAM[[0x1F8B, 0x7801, 0x785E, 0x789C, 0x78DA]] = True
_GZIP_MAGIC = 0x1F
_FEED_BYTES = 16 * 2**10
_SMALLEST_STREAM = 8
_PNG = b"\x89PNG\r\n\x1a\n"
_PARQUET = b"PAR1"
_FOREIGN = (
    *(b"BZh%d1AY&SY" % level for level in range(1, 10)),
    b"\xfd7zXZ\x00",
    b"\x28\xb5\x2f\xfd",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
)
"""First bytes of bzip2, xz, Zstandard, 7z and RAR."""
_CELL = b"\x1f"
"""Separator of cells: with a zero byte instead, digits of neighbouring cells would look like UTF-16."""

_TOO_LARGE = "expands beyond the limit"
PIXEL_ROWS = "PNG image data"


def archived_parts(data: bytes, budget: Budget) -> Iterator[Part]:
    """Yield the unpacked content of `data`, if it is or contains an archive; limited by `budget`."""
    opener = _opener(data)
    if opener is None:
        # A tar archive hides nothing: its members lie in it as they are.
        if data.startswith(_FOREIGN):
            yield Part("archive", b"", "of a kind that no output has")
        yield from _embedded_streams(data, budget)
        return
    try:
        yield from opener(data, budget)
    except Exception as error:  # every decoder has its own exceptions; none may end the scan
        yield Part("archive", b"", f"damaged ({type(error).__name__})")


def is_packed(data: bytes) -> bool:
    """Return whether `data` is an archive or compressed stream from its first byte on."""
    return is_taken_apart(data) or data.startswith(b"\x1f\x8b\x08")


def is_taken_apart(data: bytes) -> bool:
    """Return whether `data` is of a packed format whose texts are all unpacked: PNG, Parquet, zip."""
    return _opener(data) is not None


def _opener(data: bytes) -> Callable[[bytes, Budget], Iterator[Part]] | None:
    if data.startswith(_PNG):
        return _png
    if data.startswith(_PARQUET) and data.endswith(_PARQUET):
        return _parquet
    if zipfile.is_zipfile(io.BytesIO(data)):
        return _zip
    return None


def _zip(data: bytes, budget: Budget) -> Iterator[Part]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            yield Part("zip", b"", "too many members")
        for member in members[:MAX_MEMBERS]:
            name = member.filename.encode("utf-8", "surrogatepass")
            yield Part("zip member name", _CELL.join([name, member.comment, archive.comment]))
            try:
                with archive.open(member) as stream:
                    limit = budget.limit(member.compress_size)
                    content = stream.read(limit + 1)
            except (RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, EOFError) as error:
                yield Part("zip member", b"", f"cannot be opened ({type(error).__name__})")
                continue
            budget.spend(len(content))
            yield Part("zip member", content[:limit], _TOO_LARGE if len(content) > limit else "")


def _png(data: bytes, budget: Budget) -> Iterator[Part]:
    """Inflate image data and compressed text chunks (PNG, ISO/IEC 15948, clauses 5.3, 11.2.4, 11.3.4)."""
    position, image = len(_PNG), bytearray()
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        body = data[position + 8 : position + 8 + length]
        position += 12 + length
        if kind == b"IDAT":
            image += body
        elif kind == b"IEND":
            break
        elif kind not in (b"IHDR", b"PLTE"):
            yield Part("PNG chunk", kind + b"\0" + body)
    if image:
        yield _inflate(PIXEL_ROWS, memoryview(bytes(image)), budget)[0]
    if data[position:]:
        yield Part("after the PNG's end", data[position:])


def _parquet(data: bytes, budget: Budget) -> Iterator[Part]:
    """Decode every column to text, so that dictionary encoding and compression do not hide values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = pq.ParquetFile(pa.BufferReader(data))
    size = sum(
        source.metadata.row_group(i).column(j).total_uncompressed_size
        for i in range(source.metadata.num_row_groups)
        for j in range(source.metadata.num_columns)
    )
    if size > budget.limit(len(data)):
        yield Part("Parquet", b"", _TOO_LARGE)
        return
    about = [str(source.schema_arrow).encode(), *(source.metadata.metadata or {}).values()]
    yield Part("Parquet schema", _CELL.join(about))
    indices = [IndexColumn() for _ in source.schema_arrow]
    for batch in source.iter_batches(batch_size=4096):
        columns = zip(batch.columns, indices, strict=True)
        content = _CELL.join(_column_text(column, index) for column, index in columns)
        budget.spend(len(content))
        yield Part("Parquet column", content)
        if budget.left <= 0:
            yield Part("Parquet", b"", _TOO_LARGE)
            return


def _column_text(column: Any, index: IndexColumn) -> bytes:
    """Return the cells as text, numbers as in a list; integers that number the rows are skipped."""
    import pyarrow as pa

    cells = column.drop_null()
    if pa.types.is_integer(column.type):
        numbers = cells.to_numpy(zero_copy_only=False)
        if column.type != pa.uint64():
            numbers = numbers[~index.counts(numbers.astype(np.int64))]
        return b", ".join(b"%d" % number for number in numbers.tolist())
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        return b", ".join(str(number).encode() for number in cells.to_pylist())
    return _CELL.join(
        item if isinstance(item, bytes) else str(item).encode("utf-8", "surrogatepass")
        for item in cells.to_pylist()
    )


def _embedded_streams(data: bytes, budget: Budget) -> Iterator[Part]:
    """Try each position that looks like the start of a gzip or zlib stream (RFC 1952, RFC 1950)."""
    view = memoryview(data)
    position = 0
    for start in _stream_starts(data):
        if start < position:
            continue
        how = "gzip" if view[start] == _GZIP_MAGIC else "zlib"
        part, used = _inflate(how, view[start:], budget)
        if len(part.data) >= _SMALLEST_STREAM:
            yield part
            position = start + used
        if budget.left <= 0:
            yield Part(how, b"", _TOO_LARGE)
            return


def _stream_starts(data: bytes) -> list[int]:
    """Return the positions, ascending, of two bytes that may start a gzip or zlib stream."""
    codes = np.frombuffer(data, dtype=np.uint8)
    pairs = codes[:-1].astype(np.uint16) << 8 | codes[1:]
    return np.flatnonzero(_OPENS_STREAM[pairs]).tolist()


def _inflate(how: str, packed: memoryview, budget: Budget) -> tuple[Part, int]:
    """Inflate from the start of `packed`; a damaged stream yields the content before the damage.

    Returns the part, and how many packed bytes it took.
    """
    limit = budget.limit(len(packed))
    decoder = zlib.decompressobj(wbits=47)
    out = bytearray()
    used, problem = 0, ""
    try:
        while not decoder.eof and used < len(packed) and len(out) <= limit:
            piece = bytes(packed[used : used + _FEED_BYTES])
            out += decoder.decompress(piece, limit + 1 - len(out))
            used += len(piece) - len(decoder.unused_data) - len(decoder.unconsumed_tail)
            if decoder.unconsumed_tail and len(out) > limit:
                break
    except zlib.error:
        used = min(used, 1)
    if len(out) > limit:
        problem = _TOO_LARGE
    budget.spend(len(out))
    return Part(how, bytes(out[:limit]), problem), used
