"""PNG, JPEG and TIFF files beyond the plain case: depths, byte orders, palettes, pages, bombs."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from pipeline.errors import ScanRefusedError
from tests.pipeline.sources.test_files import UPRIGHT, read

EIGHT = (UPRIGHT * 7).astype(np.uint8)
SIXTEEN = (UPRIGHT * 1800).astype(np.uint16)


def tiff(path: Path, pixels: np.ndarray, *, order: str = "<", white_is_zero: bool = False) -> Path:
    """Write an uncompressed TIFF 6.0 file by hand: Pillow writes neither big-endian nor white-is-zero."""
    bits = pixels.dtype.itemsize * 8
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    tags = [(256, 4, pixels.shape[1]), (257, 4, pixels.shape[0]), (258, 3, bits), (259, 3, 1),
            (262, 3, int(not white_is_zero)), (273, 4, 8), (277, 3, 1), (278, 4, pixels.shape[0]),
            (279, 4, len(data))]  # fmt: skip
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, 1)
        + (struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value))
        for tag, kind, value in tags
    )
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data))
    path.write_bytes(head + data + struct.pack(f"{order}H", len(tags)) + entries + b"\0\0\0\0")
    return path


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("pixels", [EIGHT, SIXTEEN])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_in_both_byte_orders_and_depths(tmp_path: Path, pixels: np.ndarray, order: str) -> None:
    tiff(tmp_path / "a.tif", pixels, order=order)
    scan = read(tmp_path, "a.tif", "images")
    assert (scan.pixels == pixels).all()
    assert scan.pixels.dtype == pixels.dtype
    assert scan.source_format == "tiff"


@pytest.mark.parametrize("pixels", [EIGHT, SIXTEEN])
def test_white_is_zero_is_undone_so_that_bright_stays_dense(tmp_path: Path, pixels: np.ndarray) -> None:
    tiff(tmp_path / "a.tif", pixels, white_is_zero=True)
    scan = read(tmp_path, "a.tif", "images")
    assert (scan.pixels == np.iinfo(pixels.dtype).max - pixels).all()


def test_compressed_and_floating_tiff_are_read(tmp_path: Path) -> None:
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        Image.fromarray(EIGHT).save(tmp_path / "a.tif", compression=compression)
        assert (read(tmp_path, "a.tif", "images").pixels == EIGHT).all()
    Image.fromarray(UPRIGHT / 7).save(tmp_path / "f.tif")
    assert np.allclose(read(tmp_path, "f.tif", "images").pixels, UPRIGHT / 7)
    assert read(tmp_path, "f.tif", "images").value_range is None


def test_several_pages_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(EIGHT + shift) for shift in (0, 1)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "a.png", save_all=True, append_images=pages[1:])
    for name in ("a.tif", "a.png"):
        with pytest.raises(ScanRefusedError, match="several frames"):
            read(tmp_path, name, "images")


@pytest.mark.parametrize("mode", ["P", "LA", "RGB", "RGBA", "1"])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_grey_in_colour_form_is_grey(tmp_path: Path, mode: str, ending: str) -> None:
    Image.fromarray(EIGHT).convert(mode).save(tmp_path / f"a.{ending}")
    scan = read(tmp_path, f"a.{ending}", "images")
    expected = np.where(np.asarray(Image.fromarray(EIGHT).convert("1")), 255, 0) if mode == "1" else EIGHT
    assert np.abs(scan.pixels.astype(int) - expected).max() <= 1
    assert scan.value_range == (0.0, 255.0)


def test_colour_is_refused_or_shown_by_its_brightness(tmp_path: Path) -> None:
    colour = np.zeros((20, 30, 3), np.uint8)
    colour[..., 0], colour[:10, :, 1] = 200, 100
    Image.fromarray(colour).save(tmp_path / "a.png")
    Image.fromarray(colour).quantize(8).save(tmp_path / "p.png")
    for name in ("a.png", "p.png"):
        with pytest.raises(ScanRefusedError, match="colour image"):
            read(tmp_path, name, "images")
        shown = read(tmp_path, name, "images", colour="grey").pixels
        # 0.299 R + 0.587 G, as ITU-R BT.601 weighs them.
        assert abs(int(shown[0, 0]) - 118) <= 2
        assert abs(int(shown[-1, 0]) - 60) <= 2
    Image.new("CMYK", (8, 8)).save(tmp_path / "c.jpeg")
    with pytest.raises(ScanRefusedError, match="unsupported pixel format"):
        read(tmp_path, "c.jpeg", "images", colour="grey")


@pytest.mark.parametrize("side", [12_000, 60_000, 2**31 - 1])
def test_a_png_that_claims_a_huge_size_is_refused_unread(tmp_path: Path, side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in chunks)
    )
    with pytest.raises(ScanRefusedError, match="image too large"):
        read(tmp_path, "a.png", "images")


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_a_png_with_a_text_bomb_is_refused_and_an_ordinary_text_is_not_kept(
    tmp_path: Path, kind: bytes
) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("PatientName", "Doe^Jane")
    Image.fromarray(EIGHT).save(tmp_path / "a.png", pnginfo=text)
    scan = read(tmp_path, "a.png", "images")
    assert "Doe" not in repr(scan)
    packed = zlib.compress(b"x" * 2**26)
    body = b"key\0\0" + packed if kind == b"zTXt" else b"key\0\1\0\0\0" + packed
    plain = io.BytesIO()
    Image.fromarray(EIGHT).save(plain, "PNG")
    whole = plain.getvalue()
    (tmp_path / "b.png").write_bytes(whole[:33] + png_chunk(kind, body) + whole[33:])
    with pytest.raises(ScanRefusedError):
        read(tmp_path, "b.png", "images")


@pytest.mark.parametrize("damage", ["crc", "cut", "type"])
def test_a_damaged_image_is_refused_by_a_short_reason(tmp_path: Path, damage: str) -> None:
    name = "a.tif" if damage == "type" else "a.png"
    path = tiff(tmp_path / name, SIXTEEN) if name == "a.tif" else tmp_path / name
    if name == "a.png":
        Image.fromarray(EIGHT).save(path)
    content: Any = bytearray(path.read_bytes())
    if damage == "crc":
        content[20] ^= 255
    elif damage == "cut":
        content = content[:48]
    else:
        content[8 + SIXTEEN.nbytes + 2 + 2 * 12 + 8] = 7  # bits a sample
    path.write_bytes(bytes(content))
    with pytest.raises(ScanRefusedError) as caught:
        read(tmp_path, name, "images")
    assert len(caught.value.problem) < 60


def test_a_tiff_whose_directory_follows_itself_is_read_and_ends(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", SIXTEEN)
    content = bytearray(path.read_bytes())
    content[-4:] = content[4:8]
    path.write_bytes(content)
    assert (read(tmp_path, "a.tif", "images").pixels == SIXTEEN).all()


def test_no_value_of_a_tag_is_logged_or_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(EIGHT).save(tmp_path / "a.tif", description="Doe^Jane")
    with caplog.at_level("DEBUG"):
        scan = read(tmp_path, "a.tif", "images")
    assert "Doe" not in caplog.text + repr(scan) + "".join(capfd.readouterr())
