"""Identifying values of NIfTI and image files, of tables and of file names."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterator
from typing import Any

from pipeline.errors import ScanRefusedError
from pipeline.residual.search.texts import MAX_BYTES, byte_pieces, date_pieces, text_pieces
from pipeline.residual.values.source_values import FILE_NAME, IDENTIFIER, FileValues, Piece

_NIFTI_TEXTS = ("descrip", "db_name", "aux_file", "intent_name")
_NIFTI_SIZES = {348: 352, 540: 544}
_GZIP = b"\x1f\x8b"
_IMAGE_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*")
_MAX_TABLE_ROWS = 20_000_000
_MAX_WORDS, _LONG_WORD = 64, 6
_SUFFIXES = re.compile(r"(?:\.(?:dcm|dicom|nii|gz|png|jpe?g|tiff?|csv|tsv|json|zip|tar|npz|ima))+$", re.I)
_DATE_IN_NAME = re.compile(r"(?<!\d)(?:19|20)\d{6}(?!\d)|(?<!\d)(?:19|20)\d\d[-.](?:0\d|1[0-2])[-.][0-3]\d")
_ID_COLUMN = re.compile(
    r"patient|subject|person|name|file|path|birth|mrn|accession|study|\buid|\bid\b|_id\b", re.I
)


def nifti_pieces(data: bytes) -> Iterator[Piece]:
    """Yield the texts of a NIfTI-1 or NIfTI-2 header and of its extensions.

    Raises:
        ScanRefusedError: not a NIfTI file, or a damaged one.
    """
    import nibabel

    if data[:2] == _GZIP:
        try:
            with gzip.open(io.BytesIO(data)) as stream:
                data = stream.read(MAX_BYTES + 1024)
        except (OSError, EOFError, zlib.error) as error:
            raise ScanRefusedError("corrupt NIfTI file") from error
    sizes = {int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big")} & set(_NIFTI_SIZES)
    if not sizes:
        raise ScanRefusedError("not a NIfTI file")
    size = sizes.pop()
    try:
        kind = nibabel.Nifti1Header if size == 348 else nibabel.Nifti2Header
        header = kind(data[:size], check=False)
        stop = int(header["vox_offset"])
        texts = {name: bytes(header[name].item()) for name in _NIFTI_TEXTS}
    # nibabel raises many kinds on broken headers.
    except Exception as error:
        raise ScanRefusedError("corrupt NIfTI file") from error
    for name, text in texts.items():
        yield from _split(f"NIfTI {name}", text.rstrip(b"\0").decode("utf-8", "replace"))
    yield from byte_pieces("NIfTI extension", data[size : min(max(stop, size), MAX_BYTES)])


def image_pieces(data: bytes) -> Iterator[Piece]:
    """Yield the texts of a PNG, JPEG or TIFF file: text chunks, comments, EXIF, XMP and TIFF tags.

    Raises:
        ScanRefusedError: not one of these formats, or damaged.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF")) as image:
            texts = [*image.info.values(), *getattr(image, "text", {}).values()]
            found: dict[str, Any] = {f"image text {number}": text for number, text in enumerate(texts)}
            exif = image.getexif()
            for part in (exif, *(exif.get_ifd(number) for number in (0x8769, 0x8825, 0xA005))):
                found |= {f"EXIF {number:#06x}": value for number, value in part.items()}
            found |= {f"TIFF {number}": value for number, value in dict(getattr(image, "tag_v2", {})).items()}
    except UnidentifiedImageError as error:
        raise ScanRefusedError("not a PNG, JPEG or TIFF image") from error
    # Pillow raises many kinds on broken or huge files.
    except Exception as error:
        raise ScanRefusedError("corrupt image") from error
    for attribute, value in found.items():
        if isinstance(value, str):
            yield from _split(attribute, value)
        elif isinstance(value, bytes):
            yield from byte_pieces(attribute, value)


def table_pieces(data: bytes) -> Iterator[Piece]:
    """Yield the cells of a CSV table in columns whose names refer to patients, files, names, dates or ids.

    This is for tables that no manifest describes. Of other tables, the columns named in the manifest are
    used.

    Raises:
        ScanRefusedError: not a UTF-8 CSV table.
    """
    try:
        text = data.decode("utf-8-sig")
        lines = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in text[:2000] else ",")
        header = next(lines, [])
        wanted = [place for place, name in enumerate(header) if _ID_COLUMN.search(name)]
        for row, line in enumerate(lines):
            if row >= _MAX_TABLE_ROWS:
                raise ScanRefusedError("table too long")
            for place in wanted:
                if place < len(line):
                    yield from text_pieces(f"table column {place + 1}", line[place], IDENTIFIER)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ScanRefusedError("not a readable table") from error


def name_of_file(name: str) -> Iterator[Piece]:
    """Yield a relative file name, its last part, its stem and parts of the stem, its folders, its dates."""
    spellings = {name}
    with contextlib.suppress(UnicodeEncodeError):
        spellings.add(os.fsencode(name).decode("latin-1"))
    for spelled in spellings:
        *folders, last = spelled.split("/")
        yield Piece("relative path", FILE_NAME, spelled)
        yield Piece("file name", FILE_NAME, last)
        yield from _stem(_SUFFIXES.sub("", last))
        for folder in folders:
            yield Piece("folder name", FILE_NAME, folder)
    for found in _DATE_IN_NAME.findall(name):
        yield from date_pieces("file name", found)


def _stem(stem: str) -> Iterator[Piece]:
    """Yield a file's stem, its parts between underscores or spaces, and all but its first or last part."""
    yield Piece("file name", FILE_NAME, stem)
    parts = re.split(r"[_\s,]+", stem)
    if 1 < len(parts) <= _MAX_WORDS:
        first, last = re.split(r"[_\s,]+", stem, maxsplit=1)[1], re.split(r"[_\s,]+[^_\s,]*$", stem)[0]
        for part in (first, last, *parts):
            yield Piece("file name", FILE_NAME, part)


def _split(attribute: str, text: str) -> Iterator[Piece]:
    """Yield a text and, if it is short, those of its words that are long or have a digit."""
    yield from text_pieces(attribute, text)
    words = text.split()
    if 1 < len(words) <= _MAX_WORDS:
        for word in words:
            if len(word) >= _LONG_WORD or any(letter.isdigit() for letter in word):
                yield from text_pieces(attribute, word.strip(",;:()[]"))


NIFTI = FileValues(nifti_pieces, lambda data, name: name.lower().endswith((".nii", ".nii.gz")))
IMAGES = FileValues(image_pieces, lambda data, name: data.startswith(_IMAGE_MAGIC))
TABLE = FileValues(table_pieces, lambda data, name: name.lower().endswith((".csv", ".tsv")))
