"""JPEG and JPEG-LS whose scan data were cut before an intact end: refused, and whole ones are not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEGBaseline8Bit

from pipeline.errors import ScanRefusedError
from pipeline.sources.base import DicomOptions, ImageOptions, ReadRule, ScanTask
from pipeline.sources.dicom import source as dicom
from pipeline.sources.images import source as images
from pipeline.sources.images.jpeg_scans import scans_of
from tests.pipeline.sources.dicom.dicoms import colour, header, written

INSIDE_PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"

rows, columns = np.mgrid[0:90, 0:120]
SMOOTH = (128 + 100 * np.sin(rows / 9) * np.cos(columns / 13)).astype(np.uint8)
NOISE = np.random.default_rng(2).integers(0, 256, SMOOTH.shape).astype(np.uint8)
KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "its own codes": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 5},
    "restarts of rows": {"restart_marker_rows": 1},
    "progressive with restarts": {"progressive": True, "restart_marker_rows": 2},
}
PICTURES = {
    "smooth": SMOOTH,
    "noise": NOISE,
    "constant": np.full_like(SMOOTH, 90),
    "colour": np.stack([SMOOTH, NOISE, SMOOTH[::-1]], axis=-1),
}
ODD_TAIL = b"\0" * 3 + b"trailing bytes\xff"


def jpeg(picture: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def cut(data: bytes, count: int) -> bytes:
    """Return a codestream without the last bytes of its scan data, its end marker in place."""
    end = scans_of(data).end
    return data[: end - count] + data[end:]


def read(data: bytes) -> np.ndarray:
    (scan,) = images.read(ScanTask(ReadRule("images", "", options=ImageOptions("grey")), "f"), data)
    return np.asarray(scan.pixels)


def read_inside(frame: bytes, picture: np.ndarray) -> np.ndarray:
    made = header(picture, BitsStored=8, HighBit=7) if picture.ndim == 2 else colour(picture, "YBR_FULL_422")
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    made.PixelData = encapsulate([frame])
    made["PixelData"].VR = "OB"
    return read_dicom(written(made))


def read_dicom(data: bytes) -> np.ndarray:
    rule = ReadRule("dicom", "", options=DicomOptions("first", colour="grey"))
    return np.asarray(next(dicom.read(ScanTask(rule, "f"), data)).pixels)


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_file_is_read_whole_or_refused(kind: str, picture: str) -> None:
    data = jpeg(PICTURES[picture], **KINDS[kind])
    with Image.open(io.BytesIO(data)) as plain:
        expected = np.asarray(plain.convert("L"))
    assert np.array_equal(read(data), expected)
    assert np.array_equal(read(data + ODD_TAIL), expected)
    if (kind, picture) in {("progressive", "constant"), ("progressive with restarts", "constant")}:
        return  # Its last scans tell nothing, so that nothing is lost.
    length = scans_of(data).end - data.rindex(b"\xff\xda") - 14
    for count in {length // 8, length // 2}:
        with pytest.raises(ScanRefusedError, match=r"truncated image|corrupt image"):
            read(cut(data, count))


@pytest.mark.parametrize("picture", ["smooth", "noise", "colour"])
@pytest.mark.parametrize("kind", ["baseline", "its own codes", "restarts", "restarts of rows"])
def test_a_jpeg_inside_dicom_is_read_whole_or_refused(kind: str, picture: str) -> None:
    data = jpeg(PICTURES[picture], **KINDS[kind])
    assert read_inside(data, PICTURES[picture]).shape == SMOOTH.shape
    length = scans_of(data).end - data.rindex(b"\xff\xda") - 14
    for count in {length // 8, length // 2}:
        with pytest.raises(ScanRefusedError, match=r"truncated|cannot be decoded"):
            read_inside(cut(data, count), PICTURES[picture])


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_jpeg_ls_lossless", "JPEGLSNearLossless_08", "JPEGLSNearLossless_16", "JPEG-lossy",
        "JPGExtended", "SC_rgb_jpeg_gdcm", "SC_rgb_jls_lossy_line", "SC_rgb_jls_lossy_sample",
        "SC_rgb_jpeg_dcmtk", "examples_ybr_color",
    ],
)  # fmt: skip
def test_lossless_extended_and_jpeg_ls_frames_are_read_whole_or_refused(name: str) -> None:
    """JPEG-LS by line and by sample, JPEG lossless, 12 bits, and several frames: files inside pydicom."""
    made = pydicom.dcmread(INSIDE_PYDICOM / f"{name}.dcm")
    assert str(made.file_meta.TransferSyntaxUID).startswith("1.2.840.10008.1.2.4.")
    frames = list(generate_frames(made.PixelData, number_of_frames=int(made.get("NumberOfFrames") or 1)))
    assert read_dicom(written(made)).size
    end = scans_of(frames[0]).end
    for part in (8, 2):
        scan = end - frames[0].rindex(b"\xff\xda", 0, end)
        made.PixelData = encapsulate([cut(frames[0], scan // part), *frames[1:]])
        with pytest.raises(ScanRefusedError, match=r"truncated|cannot be decoded"):
            read_dicom(written(made))


def test_lost_restart_intervals_are_noticed_though_their_markers_go_with_them() -> None:
    data = jpeg(PICTURES["constant"], restart_marker_blocks=5)
    marks = scans_of(data).marks
    for count in (1, 3, 11):
        with pytest.raises(ScanRefusedError, match="truncated image"):
            read(data[: marks[-1 - count]] + data[marks[-1] :])
    # From the middle, where the markers after it no longer follow on those before.
    with pytest.raises(ScanRefusedError, match="truncated image"):
        read(data[: marks[3]] + data[marks[9] :])


def test_a_progressive_jpeg_without_its_last_scans_is_refused() -> None:
    data = jpeg(SMOOTH, progressive=True)
    last = data.rindex(b"\xff\xc4")
    with pytest.raises(ScanRefusedError, match="scans of the image missing"):
        read(data[:last] + b"\xff\xd9")
    three = jpeg(PICTURES["colour"], progressive=True, subsampling=0)
    second = three.index(b"\xff\xda", three.index(b"\xff\xda") + 2)
    with pytest.raises(ScanRefusedError, match="scans of the image missing"):
        read(three[:second] + b"\xff\xd9")


def test_stray_bytes_between_segments_hide_no_scan() -> None:
    data = jpeg(SMOOTH)
    tables = data.index(b"\xff\xdb")
    stray = data[:tables] + b"stray\xff\0" + data[tables:]
    assert np.array_equal(read(stray), read(data))
    with pytest.raises(ScanRefusedError, match="truncated image"):
        read(cut(stray, 300))


def test_arithmetic_codes_are_refused() -> None:
    data = jpeg(SMOOTH)
    with pytest.raises(ScanRefusedError, match="arithmetic coding not supported"):
        read(data.replace(b"\xff\xc0", b"\xff\xc9", 1))


def test_a_thumbnail_is_not_taken_for_the_picture() -> None:
    thumbnail = jpeg(NOISE[:16, :16])
    data = jpeg(SMOOTH)
    size = (len(thumbnail) + 2).to_bytes(2, "big")
    both = data[:2] + b"\xff\xe3" + size + thumbnail + data[2:]
    assert np.array_equal(read(both), read(data))
    with pytest.raises(ScanRefusedError, match="truncated image"):
        read(cut(both, 300))


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xda", b"\xff\xd8\xff\xc0\0\x02"]
)
def test_what_is_no_codestream_has_no_scans(data: bytes) -> None:
    assert scans_of(data).num_scans == 0
    with pytest.raises(ScanRefusedError):
        read(data)
