"""Memory-mapped pixel shards with rows (N, 1, H, W), uint8 or uint16, for random access."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Ints
from pipeline.errors import DataError
from pipeline.storage import write_npy

StoredPixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""(N, 1, H, W), uint8 in 0..255 or uint16 in 0..65535, bright = dense (MONOCHROME2 sense)."""

MAX_VALUE = {8: 255, 16: 65535}


def stored_dtype(bit_depth: int) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
    """Return the stored dtype of a bit depth (8 or 16)."""
    return np.dtype(np.uint8) if bit_depth == 8 else np.dtype(np.uint16)


def to_model_range(pixels: StoredPixels) -> npt.NDArray[np.float32]:
    """Map stored pixels linearly to float32 in [-1, 1]."""
    top = MAX_VALUE[pixels.dtype.itemsize * 8]
    return (pixels.astype(np.float32) * np.float32(2.0 / top)) - np.float32(1.0)


def from_model_range(images: npt.NDArray[np.floating], bit_depth: int) -> StoredPixels:
    """Map [-1, 1] to stored pixels: clipped, rounded to nearest; the inverse of `to_model_range`."""
    top = MAX_VALUE[bit_depth]
    scaled = np.rint((np.clip(images, -1.0, 1.0).astype(np.float64) + 1.0) * (top / 2.0))
    return scaled.astype(stored_dtype(bit_depth))


def common_depth(parts: Sequence[StoredPixels]) -> int:
    """Return the bit depth that holds the pixels of all arrays: 16 if any of them has 16, else 8."""
    return 16 if any(part.dtype == np.uint16 for part in parts) else 8


def at_depth(pixels: StoredPixels, bit_depth: int) -> StoredPixels:
    """Return pixels with at least `bit_depth` bits, the least and the greatest value unchanged in meaning."""
    if bit_depth == 8 or pixels.dtype == np.uint16:
        return pixels
    return pixels.astype(np.uint16) * np.uint16(MAX_VALUE[16] // MAX_VALUE[8])


def joined_pixels(parts: Sequence[StoredPixels]) -> StoredPixels:
    """Return arrays of pixels (n, 1, H, W) as one, with the bit depth of the deepest."""
    if len(parts) == 1:
        return parts[0]
    depth = common_depth(parts)
    joined: StoredPixels = np.concatenate([at_depth(part, depth) for part in parts])
    return joined


def shard_name(index: int) -> str:
    """Return the file name of a shard."""
    return f"pixels-{index:05d}.npy"


def write_shard(folder: Path, index: int, pixels: StoredPixels) -> str:
    """Write one shard atomically and return its name."""
    if pixels.ndim != 4 or pixels.shape[1] != 1 or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels must be (N, 1, H, W) uint8 or uint16, got {pixels.shape} {pixels.dtype}")
    name = shard_name(index)
    write_npy(folder / name, pixels, private=True)
    return name


class PixelShards:
    """Read access to consecutive shards as one array of rows.

    Args:
        folder: directory of the shards.
        role: name of the artifact, for messages.
        mapped: map the shards into memory, which suits many reads. Otherwise each row is read separately,
            which suits a few rows of a large set and keeps the other rows out of memory.

    Raises:
        DataError: a shard is missing, is not an npy file, or has another shape than the rest.
    """

    def __init__(self, folder: Path, *, role: str, mapped: bool = True) -> None:
        paths = sorted(folder.glob("pixels-*.npy"))
        if not paths or [path.name for path in paths] != [shard_name(i) for i in range(len(paths))]:
            raise DataError(
                "pixel shards are missing", field=role, value=str(folder), remedy="Make it again."
            )
        self._shards = [_open_shard(path, role) for path in paths]
        self._paths = None if mapped else paths
        kinds = {(shard.shape[1:], shard.dtype) for shard in self._shards}
        if len(kinds) != 1:
            raise DataError("pixel shards differ in shape", field=role, remedy="Make this output again.")
        self._starts = np.cumsum([0, *[len(shard) for shard in self._shards]])
        self.dtype = self._shards[0].dtype
        self.image_shape: tuple[int, int, int] = self._shards[0].shape[1:]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: Sequence[int] | npt.NDArray[np.integer]) -> StoredPixels:
        """Return the pixels of `rows`, in the given order, as a new (n, 1, H, W) array.

        Raises:
            IndexError: a row lies outside 0..len-1.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"rows must lie in 0..{len(self) - 1}")
        out = np.empty((len(wanted), *self.image_shape), dtype=self.dtype)
        owner = np.searchsorted(self._starts, wanted, side="right") - 1
        for shard in np.unique(owner):
            here = np.flatnonzero(owner == shard)
            places = wanted[here] - self._starts[shard]
            if self._paths is None:
                out[here] = self._shards[shard][places]
            else:
                out[here] = self._read(int(shard), places)
        return out

    def _read(self, number: int, places: Ints) -> StoredPixels:
        assert self._paths is not None
        shard = self._shards[number]
        assert isinstance(shard, np.memmap)
        rows = np.empty((len(places), *self.image_shape), dtype=self.dtype)
        with self._paths[number].open("rb") as stream:
            for row, place in zip(rows, places.tolist(), strict=True):
                stream.seek(shard.offset + place * row.nbytes)
                if stream.readinto(row.data) != row.nbytes:
                    raise DataError("a pixel shard is cut short", field="pixels", remedy="Make it again.")
        return rows


def _open_shard(path: Path, role: str) -> StoredPixels:
    try:
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(
            f"{path.name} is not a readable npy file", field=role, remedy="Make it again."
        ) from error
    if shard.ndim != 4 or shard.shape[1] != 1 or shard.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{path.name} does not hold (N, 1, H, W) uint8 or uint16", field=role, remedy="Make it again."
        )
    return shard
