"""JPEG 2000 that claims more than is there: tiles without data, and more room than a picture needs."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless

from pipeline.errors import ScanRefusedError
from pipeline.sources.base import ReadRule, ScanTask
from pipeline.sources.dicom import source as dicom
from pipeline.sources.images.jpeg_2000 import MAX_TILES, check_jpeg_2000
from tests.pipeline.sources.dicom.dicoms import header, written
from tests.pipeline.sources.fuzzing.runner import peak_mib, reset_peak

SIDE = 64
"""A tile that begins at a multiple of 2**6 falls into the same bands wherever it stands."""

TILE = np.random.default_rng(4).integers(0, 4096, (SIDE, SIDE)).astype(np.uint16)


def codestream(pixels: np.ndarray = TILE) -> bytes:
    made = header(pixels)
    made.compress(JPEG2000Lossless)
    (frame,) = generate_frames(made.PixelData, number_of_frames=1)
    return bytes(frame[: frame.rindex(b"\xff\xd9") + 2])


def tiled(across: int, down: int, tiles: Any = None, parts: int = 1) -> bytes:
    """Return a codestream of `across` by `down` tiles, each of them `TILE`; of those in `tiles` only."""
    one = codestream()
    start, end = one.index(b"\xff\x90"), len(one) - 2
    head = bytearray(one[:start])
    for offset in (8, 24):
        width, height = (SIDE * across, SIDE * down) if offset == 8 else (SIDE, SIDE)
        struct.pack_into(">4I", head, offset, width, height, 0, 0)
    pieces = [bytes(head)]
    for number in range(across * down) if tiles is None else tiles:
        part = bytearray(one[start:end])
        struct.pack_into(">HIBB", part, 4, number, len(part), 0, parts)
        pieces.append(bytes(part))
    return b"".join([*pieces, b"\xff\xd9"])


def read(frame: bytes, rows: int, columns: int) -> np.ndarray:
    made = header(np.zeros((2, 2), np.uint16), Rows=rows, Columns=columns)
    made.file_meta.TransferSyntaxUID = JPEG2000Lossless
    made.PixelData = encapsulate([frame])
    made["PixelData"].VR = "OB"
    (scan,) = dicom.read(ScanTask(ReadRule("dicom", ""), "f"), written(made))
    return np.asarray(scan.pixels)


def refusal(frame: bytes, rows: int, columns: int) -> str:
    with pytest.raises(ScanRefusedError) as caught:
        read(frame, rows, columns)
    return caught.value.problem


def test_all_tiles_are_read() -> None:
    assert np.array_equal(read(tiled(3, 2), 2 * SIDE, 3 * SIDE), np.tile(TILE, (2, 3)))
    assert np.array_equal(read(tiled(3, 2, [5, 0, 3, 1, 4, 2]), 2 * SIDE, 3 * SIDE), np.tile(TILE, (2, 3)))


@pytest.mark.parametrize("there", [[], [0], [0, 1, 2, 3, 4], [0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6]])
def test_a_tile_without_data_is_not_read_as_black(there: list[int]) -> None:
    assert refusal(tiled(3, 2, there), 2 * SIDE, 3 * SIDE) == "pixel data truncated or corrupt"


def test_a_tile_without_all_its_parts_is_refused() -> None:
    assert refusal(tiled(3, 2, parts=2), 2 * SIDE, 3 * SIDE) == "pixel data truncated or corrupt"


def test_tiles_that_are_claimed_and_not_there_take_no_memory() -> None:
    frame = tiled(60, 60, range(300))
    reset_peak()
    before = peak_mib()
    assert refusal(frame, 60 * SIDE, 60 * SIDE) == "pixel data truncated or corrupt"
    assert peak_mib() - before < 20


def test_tens_of_thousands_of_tiles_take_no_memory() -> None:
    frame = tiled(100, 100, range(300))
    reset_peak()
    before = peak_mib()
    assert refusal(frame, 100 * SIDE, 100 * SIDE) == "image too large"
    assert peak_mib() - before < 50
    with pytest.raises(ScanRefusedError, match="too large"):
        check_jpeg_2000(tiled(MAX_TILES + 1, 1, [0]))


def coded(**changes: int) -> bytes:
    """Return a codestream of 1,000 by 1,000 whose coding style (A.6.1) is changed, offset by offset."""
    frame = codestream(np.zeros((1000, 1000), np.uint16))
    place = frame.index(b"\xff\x52")
    found = bytearray(frame)
    for name, value in changes.items():
        found[place + int(name.removeprefix("at"))] = value
    return bytes(found)


def test_pieces_of_a_tile_are_bounded_before_it_is_decoded() -> None:
    check_jpeg_2000(coded())
    # Code blocks of 4 by 4 instead of 64 by 64, in 60 million pixels.
    small = bytearray(coded(at10=0, at11=0))
    check_jpeg_2000(bytes(small))
    for offset in (8, 24):
        struct.pack_into(">4I", small, offset, 7_000, 8_500, 0, 0)
    with pytest.raises(ScanRefusedError, match="too many code blocks"):
        check_jpeg_2000(bytes(small))
    with pytest.raises(ScanRefusedError, match="compressed pixels truncated"):
        check_jpeg_2000(coded(at9=33))


def test_precincts_of_a_few_pixels_are_refused() -> None:
    frame = coded()
    place = frame.index(b"\xff\x52")
    levels = frame[place + 9]
    (length,) = struct.unpack_from(">H", frame, place + 2)
    fine = b"\xff\x52" + struct.pack(">H", 12 + levels + 1) + b"\1" + frame[place + 5 : place + 14]
    with_precincts = frame[:place] + fine + b"\x00" * (levels + 1) + frame[place + 2 + length :]
    with pytest.raises(ScanRefusedError, match="too many code blocks"):
        check_jpeg_2000(with_precincts)
    usual = frame[:place] + fine + b"\x66" * (levels + 1) + frame[place + 2 + length :]
    check_jpeg_2000(usual)
    layered = bytearray(usual)
    struct.pack_into(">H", layered, place + 6, 65_535)
    with pytest.raises(ScanRefusedError, match="too many packets"):
        check_jpeg_2000(bytes(layered))


def test_offsets_that_leave_no_picture_are_refused() -> None:
    frame = bytearray(codestream())
    for offset, value in ((8, 0), (16, SIDE), (24, 0), (32, SIDE + 1)):
        broken = bytearray(frame)
        struct.pack_into(">I", broken, offset, value)
        with pytest.raises(ScanRefusedError, match="truncated or corrupt"):
            check_jpeg_2000(bytes(broken))
