"""Finished chunks on disk: pixels and descriptions of a run that may be killed at any moment."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.storage import atomic_path, make_private_directory

FOLDER = "parts"


@dataclass(slots=True)
class PartRow:
    """What is kept of one scan; a refused one has a `reason` and no pixels.

    No value here identifies a patient: ids are pseudonyms, `draw` is a digest that stays in the parts.
    """

    sample_id: str
    patient_id: str = ""
    draw: str = ""
    reason: str = ""
    source_sha256: str = ""
    source_format: str = ""
    height: int = 0
    width: int = 0
    spacing_mm: float | None = None
    view: str = ""
    sex: str = ""
    age_band: str = ""
    pixel_hash: str = ""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """One chunk: `rows` in source order, `pixels` (n, 1, S, S) of those that were not refused."""

    rows: list[PartRow]
    pixels: npt.NDArray[np.generic] = field(repr=False)


def part_path(folder: Path, number: int) -> Path:
    """Return where part `number` lies."""
    return folder / f"part-{number:06d}.npz"


def write_part(folder: Path, number: int, part: Part) -> None:
    """Store a part atomically."""
    make_private_directory(folder)
    # `asdict` would copy every value deeply, which takes longer than writing them.
    names = [column.name for column in fields(PartRow)]
    rows = [{name: getattr(row, name) for name in names} for row in part.rows]
    text = json.dumps(rows, separators=(",", ":"))
    with atomic_path(part_path(folder, number), private=True) as temporary, temporary.open("wb") as stream:
        np.savez(stream, pixels=part.pixels, rows=np.frombuffer(text.encode(), dtype=np.uint8))


def read_part(folder: Path, number: int, *, pixels: bool = True) -> Part:
    """Read a part back, with or without its pixels.

    Raises:
        OSError, ValueError, KeyError: the file is not a whole part.
    """
    with np.load(part_path(folder, number), allow_pickle=False) as archive:
        rows = [
            PartRow(**{**row, "flags": tuple(row["flags"])}) for row in json.loads(archive["rows"].tobytes())
        ]
        return Part(rows, archive["pixels"] if pixels else np.empty((0,)))


def finished_parts(folder: Path, sizes: list[int]) -> set[int]:
    """Return the numbers of whole parts of an earlier run; what is broken or of another size is removed."""
    done: set[int] = set()
    for number, size in enumerate(sizes):
        path = part_path(folder, number)
        if not path.is_file():
            continue
        try:
            whole = len(read_part(folder, number, pixels=False).rows) == size
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            whole = False
        if whole:
            done.add(number)
        else:
            path.unlink()
    return done
