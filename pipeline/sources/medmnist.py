"""MedMNIST archives: npz files with images and labels of each part, read row by row."""

from __future__ import annotations

import functools
import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from pipeline.errors import DataError, ScanRefusedError
from pipeline.sources.base import Scan, ScanTask, check_size

PARTS = ("train", "val", "test")
WHOLE = "all"
"""Name of the single part of an archive with arrays `images` and `labels`."""

MAX_UNPACKED_BYTES = 64 * 2**30
"""Limit of the unpacked bytes of all arrays. It bounds time, not memory, because images are streamed."""

MAX_LABEL_BYTES = 2**30
_BLOCK = 2**20
_BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError)


def parts_of(path: Path) -> list[str]:
    """Return the parts of an archive, without unpacking it.

    Raises:
        DataError: not an npz file, no arrays of images and labels, or too large when unpacked.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {entry.filename.removesuffix(".npy"): entry.file_size for entry in archive.infolist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(
            "not a readable npz file", field="source.path", value=str(path), remedy="Download it again."
        ) from error
    if sum(members.values()) > MAX_UNPACKED_BYTES:
        raise DataError("the unpacked size is too large", field="source.path", remedy="Split the archive.")
    found = [part for part in PARTS if {f"{part}_images", f"{part}_labels"} <= set(members)]
    if not found and {"images", "labels"} <= set(members):
        found = [WHOLE]
    if not found:
        raise DataError(
            "contains neither train_images and train_labels nor images and labels",
            field="source.path",
            value=str(path),
            remedy="Use an npz file in MedMNIST layout.",
        )
    return found


class RowStream:
    """Rows of one image array of an archive, unpacked in order and in constant memory.

    A later row is reached by unpacking the rows before it, an earlier one by starting again.

    Args:
        path: the npz file.
        part: one of `parts_of(path)`.

    Attributes:
        shape: (N, H, W).

    Raises:
        DataError: the array is missing, damaged, or not (N, H, W) uint8 or uint16.
    """

    def __init__(self, path: Path, part: str) -> None:
        self._key = _key(part, "images")
        try:
            self._archive = zipfile.ZipFile(path)
            self._size = self._archive.getinfo(f"{self._key}.npy").file_size
            self._open()
        except _BROKEN as error:
            raise _damaged(f"{self._key} cannot be read") from error

    def _open(self) -> None:
        self._stream: IO[bytes] = self._archive.open(f"{self._key}.npy")
        shape, fortran, dtype = _header(self._stream)
        if (
            len(shape) != 3
            or dtype.kind != "u"
            or dtype.itemsize not in {1, 2}
            or (fortran and min(shape) > 1)
        ):
            raise DataError(
                f"{self._key} must be (N, H, W) uint8 or uint16",
                field="source.path",
                remedy="Use an archive of 2D greyscale images.",
            )
        self.shape, self._dtype, self._next = (shape[0], shape[1], shape[2]), dtype, 0
        if self.shape[0]:
            check_size(*self.shape[1:])
        if shape[0] * self._row_bytes > self._size:
            raise _damaged(f"{self._key} is truncated")

    @property
    def _row_bytes(self) -> int:
        return self.shape[1] * self.shape[2] * self._dtype.itemsize

    def row(self, number: int) -> npt.NDArray[np.generic]:
        """Return the image of row `number`, (H, W) uint8 or uint16.

        Raises:
            ScanRefusedError: there is no such row.
            DataError: the archive is damaged.
        """
        if not 0 <= number < self.shape[0]:
            raise ScanRefusedError("row missing")
        try:
            if number < self._next:
                self._stream.close()
                self._open()
            self._skip((number - self._next) * self._row_bytes)
            data = self._read(self._row_bytes)
        except _BROKEN as error:
            raise _damaged(f"{self._key} cannot be read") from error
        self._next = number + 1
        pixels = np.frombuffer(data, dtype=self._dtype).reshape(self.shape[1:])
        return pixels.astype(self._dtype.newbyteorder("="), copy=False)

    def blocks(self, rows: int) -> Iterator[npt.NDArray[np.generic]]:
        """Yield all rows in order, in blocks (n, H, W) of `rows` rows; the last may be smaller."""
        for start in range(0, self.shape[0], rows):
            yield np.stack([self.row(number) for number in range(start, min(start + rows, self.shape[0]))])

    def _skip(self, count: int) -> None:
        while count > 0:
            count -= len(self._read(min(count, _BLOCK)))

    def _read(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) < count:
            raise EOFError
        return data


def load_labels(path: Path, part: str) -> npt.NDArray[np.integer]:
    """Return the labels of a part: (N,) numbers, or (N, K) with values 0 and 1 if there are several findings.

    Raises:
        DataError: the array cannot be read or has another shape.
    """
    key = _key(part, "labels")
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(f"{key}.npy").file_size > MAX_LABEL_BYTES:
                raise DataError(f"{key} is too large", field="source.path", remedy="Split the archive.")
            with archive.open(f"{key}.npy") as stream:
                shape, fortran, dtype = _header(stream)
                data = stream.read()
        # np.load would allocate the size in the header before reading; here, the size of the data decides.
        if len(shape) not in {1, 2} or dtype.kind not in "iu":
            raise DataError(
                f"{key} must contain integers, (N,) or (N, findings)",
                field="source.path",
                remedy="Use an npz file in MedMNIST layout.",
            )
        array = np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")
    except _BROKEN as error:
        raise _damaged(f"{key} cannot be read") from error
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def rows(path: Path, *, num_findings: int = 0) -> Iterator[tuple[str, int, str | tuple[int, ...]]]:
    """Yield (part, row, label) of every image; the parts are in the order train, val, test.

    Args:
        path: the npz file.
        num_findings: number of label columns, or 0 for one label per row.

    Yields:
        The label is the number as text, or a tuple of the numbers of all findings.

    Raises:
        DataError: an array is damaged, or the labels have another shape.
    """
    expected = num_findings if num_findings > 1 else 0
    for part in parts_of(path):
        labels = load_labels(path, part)
        columns = labels.shape[1] if labels.ndim == 2 else 0
        if columns != expected:
            raise DataError(
                f"{part}: the labels have {columns or 1} columns",
                field="source.labels",
                remedy="Set multi_label and list each column in `labels`, or unset it for one label per row.",
            )
        if len(labels) != RowStream(path, part).shape[0]:
            raise _damaged(f"{part}: the numbers of images and labels differ")
        if num_findings == 1:
            labels = labels[:, None]
        for row, label in enumerate(labels.tolist()):
            yield part, row, tuple(label) if num_findings else str(label)


def read(task: ScanTask, data: bytes = b"") -> Iterator[Scan]:
    """Yield the scan of one row of an archive; its digest is that of the row's bytes."""
    part, _, row = task.name.partition("/")
    status = Path(task.rule.root).stat()
    stream = _stream(task.rule.root, part, (status.st_size, status.st_mtime_ns))
    pixels = np.ascontiguousarray(stream.row(int(row)))
    yield Scan(
        pixels=pixels,
        value_range=(0.0, float(np.iinfo(pixels.dtype).max)),
        sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
        source_format="npz",
    )


@functools.lru_cache(maxsize=8)
def _stream(path: str, part: str, stamp: tuple[int, int]) -> RowStream:
    """Return the process's stream of an array; tasks come in ascending order, part by part."""
    return RowStream(Path(path), part)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(stream)
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    return read_header(stream)


def _key(part: str, array: str) -> str:
    return array if part == WHOLE else f"{part}_{array}"


def _damaged(problem: str) -> DataError:
    return DataError(problem, field="source.path", remedy="Download the file again.")
