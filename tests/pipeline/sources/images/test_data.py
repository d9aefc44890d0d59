"""PNG and TIFF files whose data end early, and are in order all the same as far as the decoder sees."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ScanRefusedError
from pipeline.sources.base import ImageOptions, ReadRule, ScanTask
from pipeline.sources.images import source as images
from tests.pipeline.sources.images.test_files import png_chunk

PICTURE = np.random.default_rng(8).integers(0, 256, (70, 90)).astype(np.uint8)


def read(data: bytes) -> np.ndarray:
    (scan,) = images.read(ScanTask(ReadRule("images", "", options=ImageOptions("grey")), "f"), data)
    return np.asarray(scan.pixels)


def png(packed: bytes, *, pieces: int = 1) -> bytes:
    """Return a PNG of `PICTURE`'s size with given compressed data, in several chunks."""
    step = -(-len(packed) // pieces)
    parts = [(b"IDAT", packed[start : start + step]) for start in range(0, len(packed), step)]
    head = struct.pack(">IIBBBBB", 90, 70, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), *parts, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in chunks)


ROWS = b"".join(b"\0" + row.tobytes() for row in PICTURE)


@pytest.mark.parametrize("pieces", [1, 7])
def test_a_png_that_ends_in_good_order_before_its_last_row_is_refused(pieces: int) -> None:
    assert np.array_equal(read(png(zlib.compress(ROWS), pieces=pieces)), PICTURE)
    assert np.array_equal(read(png(zlib.compress(ROWS + b"more"), pieces=pieces)), PICTURE)
    for lost in (1, 91, len(ROWS) // 2):
        with pytest.raises(ScanRefusedError, match="truncated image"):
            read(png(zlib.compress(ROWS[:-lost]), pieces=pieces))


def test_a_png_whose_checksum_is_wrong_is_refused() -> None:
    with pytest.raises(ScanRefusedError, match="corrupt image"):
        read(png(zlib.compress(ROWS)[:-4] + b"none"))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 33])
def test_whole_pngs_of_every_mode_are_read(mode: str, width: int) -> None:
    pixels = PICTURE[:, :width]
    image = Image.fromarray(pixels.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image if mode == "I;16" else image.convert(mode)).save(buffer, "PNG")
    assert read(buffer.getvalue()).shape == pixels.shape


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 5), (9, 4), (70, 90)])
def test_an_interlaced_png_has_the_rows_of_seven_passes(shape: tuple[int, int]) -> None:
    pixels = PICTURE[: shape[0], : shape[1]]
    passes = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    parts = [pixels[row::down, column::across] for row, column, down, across in passes]
    rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    head = struct.pack(">IIBBBBB", shape[1], shape[0], 8, 0, 0, 0, 1)
    for lost in (0, 1):
        packed = zlib.compress(rows[: len(rows) - lost])
        chunks = [(b"IHDR", head), (b"IDAT", packed), (b"IEND", b"")]
        data = b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in chunks)
        if lost:
            with pytest.raises(ScanRefusedError, match="truncated image"):
                read(data)
        else:
            assert np.array_equal(read(data), pixels)


def tiff(picture: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "TIFF", compression="jpeg", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "picture", [PICTURE, np.repeat(PICTURE[..., None], 3, axis=2)], ids=["grey", "colour"]
)
@pytest.mark.parametrize("strip", [65_536, 1_000])
def test_a_tiff_of_jpeg_strips_is_read_whole_or_refused(picture: np.ndarray, strip: int) -> None:
    data = tiff(picture, strip_size=strip)
    assert read(data).shape == PICTURE.shape
    with Image.open(io.BytesIO(data)) as image:
        assert (len(image.tag_v2[273]) > 1) == (strip == 1_000)
        offset, count = image.tag_v2[273][-1], image.tag_v2[279][-1]
    damaged = bytearray(data)
    place = data.index(b"\xff\xda", offset) + 40
    assert place < offset + count - 40
    damaged[place : place + 2] = b"\xff\xd9"
    with pytest.raises(ScanRefusedError, match=r"truncated image|corrupt image"):
        read(bytes(damaged))


def test_strips_that_claim_more_than_the_picture_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiff(PICTURE, strip_size=1_000)
    monkeypatch.setattr("pipeline.sources.images.data.MAX_PIXELS", PICTURE.size // 4)
    with pytest.raises(ScanRefusedError, match="image too large"):
        read(data)
