"""Finished chunks on disk: pixels and descriptions of a run that may be killed at any moment."""

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
    """What is kept of one scan; a refused one has a `reason` and no pixels.

    No value here identifies a patient, nor tells without the key whether a guess is right: ids are
    pseudonyms, `sealed_draw` is masked (`pipeline.ingest.splitting.seals`). Parts of before, whose draws were
    not, lack that name and are made again. `scan` is the position of the scan's file in its chunk: a file of
    several frames gives several rows. `signature` tells the image's coarse structure, in hex
    (`pipeline.ingest.reading.signatures`). `looks` holds the pseudonyms of what the patient id looks like,
    with a space between two; `doubtful` says that a header's id may name nobody
    (`pipeline.sources.tables.patient_ids`). `attributes` stand in the order of `SCAN_ATTRIBUTES`.
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
        """Return a row as it was written in JSON, which knows no tuples."""
        return cls(**{**body, **{name: tuple(body[name]) for name in ("attributes", "flags")}})


_NAMES = tuple(column.name for column in fields(PartRow))


def part_path(folder: Path, number: int) -> Path:
    """Return where part `number` lies."""
    return folder / f"part-{number:06d}.zip"


class PartWriter:
    """Writes one part row by row, so that a file of any number of frames needs no more memory than one.

    The part appears when the block ends without an error. It is not flushed to the disk: a part that a power
    failure cuts short is found by its checksums and made again.

    Args:
        folder: where the parts lie.
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
            # `asdict` would copy every value deeply, which takes longer than writing them.
            rows = [{name: getattr(row, name) for name in _NAMES} for row in self._rows]
            self._archive.writestr(_ROWS, json.dumps(rows, separators=(",", ":")))
        return self._stack.__exit__(*error)

    def add(self, row: PartRow, image: npt.NDArray[np.generic] | None = None) -> None:
        """Append a row, with its stored image (S, S) unless it has a reason of refusal.

        The row may be completed until the block ends.
        """
        self._rows.append(row)
        if image is not None:
            self._pixels.write(np.ascontiguousarray(image).data)


def read_rows(folder: Path, number: int) -> list[PartRow]:
    """Return the descriptions of a part, in source order.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile: the file is not a whole part.
    """
    with zipfile.ZipFile(part_path(folder, number)) as archive:
        return _rows(archive)


def read_images(
    folder: Path, number: int, image_size: int, dtype: np.dtype[Any]
) -> Iterator[tuple[PartRow, npt.NDArray[np.generic] | None]]:
    """Yield each row of a part with its stored image (S, S), None for a refused one; one image in memory."""
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
    """Yield stored images (S, S) of a part by their rising positions among its images, without its rows."""
    length = image_size**2 * dtype.itemsize
    with zipfile.ZipFile(part_path(folder, number)) as archive, archive.open(_PIXELS) as pixels:
        for position in positions:
            pixels.seek(position * length)
            yield np.frombuffer(pixels.read(length), dtype=dtype).reshape(image_size, image_size)


def finished_parts(folder: Path, sizes: list[int]) -> set[int]:
    """Return the numbers of whole parts of an earlier run; what is broken or of another size is removed."""
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
