"""Stores pixels and descriptions of finished chunks on disk, so that an interrupted ingest can resume."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.scan_attributes import nothing_told
from pipeline.storage import atomic_path, make_private_directory

FOLDER = "parts"
_ROWS, _PIXELS = "rows.json", "pixels"


@dataclass(slots=True)
class PartRow:
    """What is kept of one scan; a refused scan has a `reason` and no pixels.

    No value identifies a patient, and none confirms a guessed id without the key: ids are pseudonyms, and
    draws are sealed (`pipeline.ingest.splitting.seals`). Parts of earlier versions that hold unsealed draws
    are made again.

    Attributes:
        scan: position of the scan's file in its chunk; a file of several frames gives several rows.
        looks: pseudonyms of the forms of the patient id, separated by spaces; ids that look alike share one
            (`pipeline.sources.tables.patient_ids`).
        doubtful: True if a header's id may name nobody.
        attributes: values in the order of `SCAN_ATTRIBUTES`.
        signature: coarse structure of the image, in hex (`pipeline.ingest.reading.signatures`).
    """

    sample_id: str
    scan: int = 0
    patient_id: str = ""
    sealed_draw: str = ""
    looks: str = ""
    doubtful: bool = False
    reason: str = ""
    source_sha256: str = ""
    source_format: str = ""
    height: int = 0
    width: int = 0
    spacing_mm: float | None = None
    attributes: tuple[str, ...] = field(default_factory=nothing_told)
    pixel_hash: str = ""
    signature: str = ""
    flags: tuple[str, ...] = ()

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """Return a row from its JSON object, which has lists instead of tuples."""
        return cls(**{**body, **{name: tuple(body[name]) for name in ("attributes", "flags")}})

    def body(self) -> dict[str, Any]:
        """Return the row as a JSON object; `asdict` would copy deeply, which takes longer than writing."""
        return {name: getattr(self, name) for name in _NAMES}


_NAMES = tuple(column.name for column in fields(PartRow))


def part_path(folder: Path, number: int) -> Path:
    """Return the path of part `number`."""
    return folder / f"part-{number:06d}.zip"


class PartWriter:
    """Writes one part row by row, so that memory does not grow with the number of frames of a file.

    The part appears when the block ends without an error. It is not flushed to the disk: after a power
    failure, its checksums show that it is incomplete, and it is made again.

    Args:
        folder: folder of the parts.
        number: number of the part.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number = folder, number
        self._rows: list[PartRow] = []
        self._stack = contextlib.ExitStack()
        self._pixels: IO[bytes]

    def __enter__(self) -> PartWriter:
        make_private_directory(self._folder)
        path = part_path(self._folder, self._number)
        temporary = self._stack.enter_context(atomic_path(path, private=True, durable=False))
        self._archive = self._stack.enter_context(zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED))
        self._pixels = self._archive.open(_PIXELS, "w", force_zip64=True)
        return self

    def __exit__(self, *error: Any) -> bool | None:
        self._pixels.close()
        if error[0] is None:
            rows = [row.body() for row in self._rows]
            self._archive.writestr(_ROWS, json.dumps(rows, separators=(",", ":")))
        return self._stack.__exit__(*error)

    def add(self, row: PartRow, image: npt.NDArray[np.generic] | None = None) -> None:
        """Append a row, with its stored image (S, S) unless the scan was refused.

        The row may be changed until the block ends.
        """
        self._rows.append(row)
        if image is not None:
            self._pixels.write(np.ascontiguousarray(image).data)


def read_rows(folder: Path, number: int) -> list[PartRow]:
    """Return the rows of a part, in source order.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile: the part is damaged or incomplete.
    """
    with zipfile.ZipFile(part_path(folder, number)) as archive:
        return _rows(archive)


def read_images(
    folder: Path, number: int, image_size: int, dtype: np.dtype[Any]
) -> Iterator[tuple[PartRow, npt.NDArray[np.generic] | None]]:
    """Yield each row of a part with its stored image (S, S), or None if refused; one image in memory."""
    length = image_size**2 * dtype.itemsize
    with zipfile.ZipFile(part_path(folder, number)) as archive, archive.open(_PIXELS) as pixels:
        for row in _rows(archive):
            image = None
            if not row.reason:
                image = np.frombuffer(pixels.read(length), dtype=dtype).reshape(image_size, image_size)
            yield row, image


def images_at(
    folder: Path, number: int, positions: Sequence[int], image_size: int, dtype: np.dtype[Any]
) -> Iterator[npt.NDArray[np.generic]]:
    """Yield the stored images (S, S) of a part at rising positions among its images."""
    length = image_size**2 * dtype.itemsize
    with zipfile.ZipFile(part_path(folder, number)) as archive, archive.open(_PIXELS) as pixels:
        for position in positions:
            pixels.seek(position * length)
            yield np.frombuffer(pixels.read(length), dtype=dtype).reshape(image_size, image_size)


def finished_parts(folder: Path, sizes: list[int]) -> set[int]:
    """Return the numbers of the complete parts of an earlier run; remove parts damaged or of another size."""
    done: set[int] = set()
    for number, size in enumerate(sizes):
        path = part_path(folder, number)
        if not path.is_file():
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                rows = _rows(archive)
                whole = {row.scan for row in rows} == set(range(size)) and archive.testzip() is None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            whole = False
        if whole:
            done.add(number)
        else:
            path.unlink()
    return done


def _rows(archive: zipfile.ZipFile) -> list[PartRow]:
    return [PartRow.of(row) for row in json.loads(archive.read(_ROWS))]
