"""MedMNIST archives: one npz file with images and labels by part, each row a scan, read as a stream."""

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
"""Name of the only part of an archive with plain `images` and `labels`."""

MAX_UNPACKED_BYTES = 64 * 2**30
"""Most bytes of all arrays; images are never in memory together, so the bound is one of time."""

MAX_LABEL_BYTES = 2**30
_BLOCK = 2**20
_BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError)


def parts_of(path: Path) -> list[str]:
    """Return the parts that an archive holds, without unpacking it.

    Raises:
        DataError: not an npz file, without images, or it would unpack beyond all bounds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {entry.filename.removesuffix(".npy"): entry.file_size for entry in archive.infolist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(
            "not a readable npz file", field="source.path", value=str(path), remedy="Fetch it again."
        ) from error
    if sum(members.values()) > MAX_UNPACKED_BYTES:
        raise DataError("unpacks to too many bytes", field="source.path", remedy="Split the archive.")
    found = [part for part in PARTS if {f"{part}_images", f"{part}_labels"} <= set(members)]
    if not found and {"images", "labels"} <= set(members):
        found = [WHOLE]
    if not found:
        raise DataError(
            "holds neither train_images and train_labels nor images and labels",
            field="source.path",
            value=str(path),
            remedy="Name a MedMNIST npz file.",
        )
    return found


class RowStream:
    """The rows of one image array of an archive, unpacked in order and in constant memory.

    A row that lies ahead is reached by unpacking what lies between; one that lies behind by starting anew.

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
            raise _unreadable(self._key) from error

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
                remedy="Name a 2D grey archive.",
            )
        self.shape, self._dtype, self._next = (shape[0], shape[1], shape[2]), dtype, 0
        if self.shape[0]:
            check_size(*self.shape[1:])
        if shape[0] * self._row_bytes > self._size:
            raise DataError(f"{self._key} is cut off", field="source.path", remedy="Fetch the file again.")

    @property
    def _row_bytes(self) -> int:
        return self.shape[1] * self.shape[2] * self._dtype.itemsize

    def row(self, number: int) -> npt.NDArray[np.generic]:
        """Return row `number`, (H, W) uint8 or uint16.

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
            raise _unreadable(self._key) from error
        self._next = number + 1
        pixels = np.frombuffer(data, dtype=self._dtype).reshape(self.shape[1:])
        return pixels.astype(self._dtype.newbyteorder("="), copy=False)

    def blocks(self, rows: int) -> Iterator[npt.NDArray[np.generic]]:
        """Yield all rows in order, `rows` at a time: (n, H, W)."""
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
    """Return the labels of a part: (N,) numbers, or (N, K) of 0 and 1 if a scan may have several findings.

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
        # numpy would allocate what the header claims before it reads; here the bytes decide.
        if len(shape) not in {1, 2} or dtype.kind not in "iu":
            raise DataError(
                f"{key} must hold whole numbers, one a row or one a finding",
                field="source.path",
                remedy="Name a MedMNIST npz file.",
            )
        array = np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")
    except _BROKEN as error:
        raise _unreadable(key) from error
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def rows(path: Path, *, num_findings: int = 0) -> Iterator[tuple[str, int, str | tuple[int, ...]]]:
    """Yield (part, row, label) of every image, parts in published order.

    Args:
        path: the npz file.
        num_findings: columns of the labels, or 0: one label a row.

    Yields:
        The label is its number as text, or with findings a tuple of their numbers.

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
                remedy="Set multi_label and name every column in `labels`, or unset it for one label a row.",
            )
        if len(labels) != RowStream(path, part).shape[0]:
            raise DataError(
                f"{part}: images and labels differ in number",
                field="source.path",
                remedy="Fetch the file again.",
            )
        if num_findings == 1:
            labels = labels[:, None]
        for row, label in enumerate(labels.tolist()):
            yield part, row, tuple(label) if num_findings else str(label)


def read(task: ScanTask, data: bytes = b"") -> Iterator[Scan]:
    """Yield one row of an archive, which is opened here; its digest is taken over the row's bytes."""
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
    """Return the process's place in an array; scans are asked for in rising order, part by part."""
    return RowStream(Path(path), part)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(stream)
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    return read_header(stream)


def _key(part: str, what: str) -> str:
    return what if part == WHOLE else f"{part}_{what}"


def _unreadable(key: str) -> DataError:
    return DataError(f"{key} cannot be read", field="source.path", remedy="Fetch the file again.")
