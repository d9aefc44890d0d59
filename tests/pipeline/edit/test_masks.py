"""Masks from boxes and from files, and files that are no masks."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.edit.masks import read_mask
from pipeline.errors import DataError, UsageError

SIZE = (8, 12)


def test_a_box_covers_the_pixels_whose_centres_lie_in_it() -> None:
    mask = read_mask((0.25, 0.5, 0.75, 1.0), SIZE, feather=0)
    expected = np.zeros(SIZE)
    expected[4:, 3:9] = 1
    assert np.array_equal(mask, expected)
    assert np.array_equal(read_mask(None, SIZE, feather=3), np.ones(SIZE))


def test_files_of_either_kind_give_the_same_mask(tmp_path: Path) -> None:
    box = read_mask((0.25, 0.5, 0.75, 1.0), SIZE, feather=2)
    hard = read_mask((0.25, 0.5, 0.75, 1.0), SIZE, feather=0)
    for name, values in (("b", hard > 0), ("labels", hard.astype(np.uint8)), ("f", hard.astype(np.float64))):
        np.save(tmp_path / f"{name}.npy", values)
    Image.fromarray((hard * 255).astype(np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(hard > 0).save(tmp_path / "bits.png")
    for path in tmp_path.iterdir():
        assert np.array_equal(read_mask(str(path), SIZE, feather=2), box), path.name


def bomb(path: Path) -> None:
    """Write a small PNG that says it has 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def test_files_that_are_no_masks_are_refused_without_their_names(tmp_path: Path) -> None:
    np.save(tmp_path / "size.npy", np.ones((8, 8)))
    np.save(tmp_path / "range.npy", np.full(SIZE, 2.0))
    np.save(tmp_path / "nan.npy", np.full(SIZE, np.nan))
    np.save(tmp_path / "kind.npy", np.ones(SIZE, dtype=np.int64))
    np.save(tmp_path / "object.npy", np.full(SIZE, None), allow_pickle=True)
    np.savez(tmp_path / "many.npz", a=np.ones(SIZE))
    (tmp_path / "many.npz").rename(tmp_path / "many.npy")
    (tmp_path / "text.npy").write_text("no array")
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (8, 12), }".ljust(117) + b"\n"
    (tmp_path / "short.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    Image.fromarray(np.zeros((*SIZE, 3), dtype=np.uint8)).save(tmp_path / "colour.png")
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "size.png")
    (tmp_path / "text.png").write_text("no picture")
    whole = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, SIZE, dtype=np.uint8)).save(whole)
    whole.write_bytes(whole.read_bytes()[:60])
    bomb(tmp_path / "bomb.png")
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 13
    for path in paths:
        with pytest.raises(DataError, match="--mask") as caught:
            read_mask(str(path), SIZE, feather=0)
        assert path.name not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)
        assert caught.value.exit_code == 3


def test_what_is_no_mask_file_or_masks_nothing_is_a_wrong_command(tmp_path: Path) -> None:
    np.save(tmp_path / "empty.npy", np.zeros(SIZE, dtype=bool))
    (tmp_path / "mask.tiff").write_bytes(b"II*\x00")
    for path in (tmp_path / "empty.npy", tmp_path / "mask.tiff", tmp_path, tmp_path / "none.png"):
        with pytest.raises(UsageError, match="--mask"):
            read_mask(str(path), SIZE, feather=0)
