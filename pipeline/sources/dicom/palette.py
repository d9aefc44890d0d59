"""Palettes of a DICOM file (PS3.3 C.7.9): the colours that stored indices stand for."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanRefusedError
from pipeline.sources.dicom.display import row_blocks
from pipeline.sources.dicom.header import BIG_ENDIAN, Header
from pipeline.sources.dicom.luts import lut_entries


class Palette(NamedTuple):
    """The colours that indices stand for (PS3.3 C.7.6.3.1.5).

    Attributes:
        first: the index of the first colour.
        table: (N, 3) red, green and blue from 0 to 65535.
    """

    first: int
    table: npt.NDArray[np.uint16]

    def look_up(self, indices: npt.NDArray[Any], values: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
        """Return what stands in `values`, one a colour, for (H, W) indices.

        Indices beyond both ends stand for the first and the last colour.
        """
        found = np.empty((*indices.shape, *values.shape[1:]), dtype=np.uint16)
        for rows in row_blocks(found):
            np.take(values, indices[rows].astype(np.intp) - self.first, axis=0, out=found[rows], mode="clip")
        return found


def palette_of(header: Header, *, signed: bool) -> Palette:
    """Return the palette of a file.

    Raises:
        ScanRefusedError: there is none, or its tables contradict each other.
    """
    try:
        tables = [_table(header, name, signed) for name in ("Red", "Green", "Blue")]
        return Palette(tables[0][0], np.stack([entries for _, entries in tables], axis=-1))
    except (KeyError, ValueError, IndexError) as error:
        raise ScanRefusedError("palette missing or corrupt") from error


def _table(header: Header, name: str, signed: bool) -> tuple[int, npt.NDArray[np.uint16]]:
    """Return the first index and the entries of one colour, brought to 16 bits."""
    count, first, bits = header.values[f"{name}PaletteColorLookupTableDescriptor"]
    count, little = count & 0xFFFF or 0x10000, header.syntax != BIG_ENDIAN
    data = header.values.get(f"{name}PaletteColorLookupTableData")
    if data is not None:
        entries = lut_entries(data, count, little=little)
    else:
        segmented = header.values[f"Segmented{name}PaletteColorLookupTableData"]
        size = 1 if bits == 8 else 2
        words = np.frombuffer(segmented, dtype=np.uint8 if size == 1 else "<u2" if little else ">u2")
        entries = _unfolded(words.astype(np.int64), count)
    if bits == 8 and entries.max() < 256:
        entries = entries.astype(np.uint16) * 257
    return first - (0x10000 if signed and first > 0x7FFF else 0), entries.astype(np.uint16)


def _unfolded(words: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Return the entries of a segmented table (PS3.3 C.7.9.2): discrete and linear segments."""
    entries: list[npt.NDArray[np.int64]] = []
    place = found = 0
    while found < count:
        kind, length = int(words[place]), int(words[place + 1])
        if kind == 0 and length:
            part = words[place + 2 : place + 2 + length]
            place += 2 + length
        elif kind == 1 and length and entries:
            start, stop = int(entries[-1][-1]), int(words[place + 2])
            part = np.rint(start + (stop - start) * np.arange(1, length + 1) / length).astype(np.int64)
            place += 3
        else:
            raise ValueError("an indirect or empty segment")
        entries.append(part)
        found += len(part)
    if found != count:
        raise ValueError("another number of entries")
    return np.concatenate(entries)
