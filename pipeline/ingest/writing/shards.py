"""Writes the pixel shards of a cohort image by image, with the mean and deviation of the train split."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.pixels import shard_name, stored_dtype, to_model_range
from pipeline.storage import atomic_path

SHARD_BYTES = 8 * 2**20


class ShardWriter:
    """Writes shards of equal length, of which the last may be shorter, with one image in memory at a time.

    Args:
        out: the cohort directory.
        total: number of images that will be added; the headers of the shards need it in advance.
        image_size: side of the images in pixels.
        bit_depth: 8 or 16.
    """

    def __init__(self, out: Path, total: int, image_size: int, bit_depth: int) -> None:
        self._out, self._left = out, total
        self._dtype = stored_dtype(bit_depth)
        self._shape = (1, image_size, image_size)
        self._rows = max(1, SHARD_BYTES // (image_size**2 * self._dtype.itemsize))
        self._stack = contextlib.ExitStack()
        self._stream: IO[bytes] | None = None
        self._room = 0
        self._count, self._sum, self._squares = 0, 0.0, 0.0
        self.names: list[str] = []
        self.written = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def add(self, image: npt.NDArray[Any], *, train: bool) -> None:
        """Append an image (S, S); mean and standard deviation count it if `train` is true."""
        if self._stream is None:
            self._stream = self._begin()
        self._stream.write(np.ascontiguousarray(image, dtype=self._dtype).data)
        self.written += 1
        self._room -= 1
        if self._room == 0:
            self._stack.close()
            self._stream = None
        if train:
            values = to_model_range(image).astype(np.float64)
            self._count += values.size
            self._sum += float(values.sum())
            self._squares += float(np.square(values).sum())

    def _begin(self) -> IO[bytes]:
        name = shard_name(len(self.names))
        self.names.append(name)
        self._room = min(self._rows, self._left)
        self._left -= self._room
        temporary = self._stack.enter_context(atomic_path(self._out / name, private=True))
        stream = self._stack.enter_context(temporary.open("wb"))
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._room, *self._shape),
        }
        np.lib.format.write_array_header_1_0(stream, header)
        return stream

    @property
    def mean(self) -> float:
        """Mean over the train split in [-1, 1]."""
        return self._sum / max(self._count, 1)

    @property
    def std(self) -> float:
        """Standard deviation over the train split in [-1, 1]."""
        return float(np.sqrt(max(self._squares / max(self._count, 1) - self.mean**2, 0.0)))
