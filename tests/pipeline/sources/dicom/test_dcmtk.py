"""An independent reader, DCMTK, shows the same grey levels.

Black and white of both are fixed by the file (window edges, or a table's bits), never fitted: what the reader
calls black is 0 and what it calls white is 255, as DCMTK writes them. DCMTK 3.6.7 knows no LINEAR_EXACT (a
LINEAR window half a step aside is the same line), draws no shutter and blanks no padding; its decoders know
no JPEG 2000, for which the lossless siblings of a picture stand in.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pipeline.sources.base import ReadRule, ScanTask
from pipeline.sources.dicom import source as dicom
from pipeline.sources.dicom.layout import layout_of
from pipeline.sources.dicom.parse import parse
from pipeline.sources.dicom.pixels import decoded_frames
from pipeline.sources.images.resize import area_average
from tests.pipeline.sources.dicom.dicoms import EVERY, colour, embedded_overlays, header, lut, shown, written

pytestmark = pytest.mark.skipif(
    shutil.which("dcmj2pnm") is None, reason="DCMTK is not installed (apt-get install dcmtk)"
)

RISING = 65535 * np.sqrt(np.linspace(0, 1, 1000))
SIGNED = EVERY.astype(np.int16) - 2048
PADDED = np.where(EVERY % 7 == 0, 4095, EVERY // 2).astype(np.uint16)


def dcmtk(path: Path, *options: str, tool: str = "dcmj2pnm") -> npt.NDArray[np.float64]:
    """DCMTK's rendering of 16 bits on the scale from 0 to 255."""
    target = path.with_suffix(".png")
    subprocess.run([tool, "-q", "+on2", "-il", *options, str(path), str(target)], check=True, timeout=120)
    with Image.open(target) as image:
        return np.asarray(image).astype(np.float64) / 257


def both(folder: Path, made: Dataset, *options: str, **chosen: Any) -> tuple[np.ndarray, np.ndarray]:
    path = folder / "image.dcm"
    path.write_bytes(written(made))
    return dcmtk(path, *options), shown(made, **chosen)


def window(center: Any = 2000, width: Any = 1500, pixels: np.ndarray = EVERY, **changes: Any) -> Dataset:
    return header(pixels, WindowCenter=center, WindowWidth=width, **changes)


RESCALE = {"RescaleType": "US"}
CASES = {
    "window": (window(), "1", "0"),
    "narrow window between whole numbers": (window(2000.3, 11), "1", "0"),
    "window of width 1": (window(2000, 1), "1", "0"),
    "second window": (window([2000, 1000], [1500, 700]), "2", "1"),
    "signed": (window(-300, pixels=SIGNED), "1", "0"),
    "sigmoid": (window(VOILUTFunction="SIGMOID"), "1", "0"),
    "sigmoid, MONOCHROME1": (
        window(VOILUTFunction="SIGMOID", PhotometricInterpretation="MONOCHROME1"), "1", "0"
    ),
    "MONOCHROME1": (window(PhotometricInterpretation="MONOCHROME1"), "1", "0"),
    "narrow window, MONOCHROME1": (window(2000.3, 11, PhotometricInterpretation="MONOCHROME1"), "1", "0"),
    "INVERSE": (window(PresentationLUTShape="INVERSE"), "1", "0"),
    "MONOCHROME1 and INVERSE": (
        window(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"), "1", "0"
    ),
    "rescale": (window(300, RescaleSlope=0.7, RescaleIntercept=-1000, **RESCALE), "1", "0"),
    "falling rescale": (window(-300, RescaleSlope=-0.7, RescaleIntercept=1000, **RESCALE), "1", "0"),
    "left-aligned values": (window(pixels=EVERY << 4, HighBit=15), "1", "0"),
    "an overlay in the high bits": (
        embedded_overlays(window(pixels=EVERY | 0x8000 | EVERY << 13), 13, 14, 15), "1", "0"
    ),
    "Modality LUT": (
        window(ModalityLUTSequence=lut(100, np.linspace(0, 1, 3000) ** 2 * 4000, ModalityLUTType="US")),
        "1", "0",
    ),
    "Modality LUT, MONOCHROME1": (
        window(
            ModalityLUTSequence=lut(100, np.linspace(0, 1, 3000) ** 2 * 4000, ModalityLUTType="US"),
            PhotometricInterpretation="MONOCHROME1",
        ),
        "1", "0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_windows_show_what_dcmtk_shows(tmp_path: Path, name: str) -> None:
    made, theirs, ours = CASES[name]
    expected, found = both(tmp_path, made, "+Wi", theirs, window=ours)
    assert np.ptp(expected) > 200
    assert np.abs(found - expected).max() <= 1


def test_a_linear_exact_window_is_dcmtks_linear_one_half_a_step_aside(tmp_path: Path) -> None:
    made = window(2000, 15, VOILUTFunction="LINEAR_EXACT")
    expected, found = both(tmp_path, made, "+Ww", "2000.5", "16")
    assert np.abs(found - expected).max() <= 1


LUTS = {
    "16 bits": (header(EVERY, VOILUTSequence=lut(1500, RISING)), "1", "0"),
    "12 bits": (header(EVERY, VOILUTSequence=lut(1500, RISING / 16, 12)), "1", "0"),
    "8 bits": (header(EVERY, VOILUTSequence=lut(1500, RISING / 256, 8)), "1", "0"),
    "signed": (header(SIGNED, VOILUTSequence=lut(-500, RISING)), "1", "0"),
    "MONOCHROME1": (
        header(EVERY, VOILUTSequence=lut(1500, RISING), PhotometricInterpretation="MONOCHROME1"), "1", "0"
    ),
    "the second": (
        header(EVERY, VOILUTSequence=Sequence([*lut(1500, RISING), *lut(100, RISING[::-1])])), "2", "1"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LUTS)
def test_voi_luts_show_what_dcmtk_shows(tmp_path: Path, name: str) -> None:
    made, theirs, ours = LUTS[name]
    expected, found = both(tmp_path, made, "+Wl", theirs, window=ours)
    assert np.ptp(expected) > 200
    assert np.abs(found - expected).max() <= 1


def test_a_modality_lut_alone_shows_what_dcmtk_shows(tmp_path: Path) -> None:
    table = lut(0, np.linspace(0, 1, 4096) ** 2 * 4095, 12, ModalityLUTType="US")
    expected, found = both(tmp_path, header(EVERY, ModalityLUTSequence=table))
    assert np.abs(found - expected).max() <= 1


def test_padding_moves_nothing_that_dcmtk_shows(tmp_path: Path) -> None:
    expected, found = both(tmp_path, window(1000, pixels=PADDED, PixelPaddingValue=4095), "+Wi", "1")
    image = PADDED != 4095
    assert np.abs(found - expected)[image].max() <= 1
    assert (found[~image] == found[image].min()).all()


@pytest.mark.parametrize("ratio", [[2, 1], [1, 3]])
def test_the_pixel_aspect_is_dcmtks(tmp_path: Path, ratio: list[int]) -> None:
    pixels = (np.arange(40 * 60).reshape(40, 60) + 500).astype(np.uint16)
    made = header(pixels, PixelAspectRatio=ratio, WindowCenter=2048, WindowWidth=4096)
    path = tmp_path / "image.dcm"
    path.write_bytes(written(made))
    (scan,) = dicom.read(ScanTask(ReadRule("dicom", ""), "f"), written(made))
    # Width is kept where pixels are tall, height where they are wide, so that both only repeat pixels.
    factor = "+Sxf" if ratio[0] > ratio[1] else "+Syf"
    expected = dcmtk(path, "+Wi", "1", "-i", factor, "1")
    height, width = (
        (round(40 / scan.pixel_aspect), 60) if factor == "+Sxf" else (40, round(60 * scan.pixel_aspect))
    )
    assert expected.shape[0] / expected.shape[1] == pytest.approx(height / width)
    found = area_average(scan.pixels, *expected.shape) / 4095 * 255
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_luma_is_dcmtks(tmp_path: Path, photometric: str) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = tmp_path / "image.dcm"
    path.write_bytes(written(colour(pixels, photometric)))
    with Image.open(_converted(path)) as image:
        rgb = np.asarray(image.convert("RGB")).astype(np.float64)
    found = shown(colour(pixels, photometric), colour="grey")
    # DCMTK gives the colours; colours beyond the cube of RGB are clipped there and have no luma to compare.
    inside = ((rgb > 0) & (rgb < 255)).all(axis=-1)
    assert inside.sum() > 50
    assert np.abs(rgb @ [0.299, 0.587, 0.114] - found)[inside].max() <= 1.5


IN_COLOUR = {
    "SC_rgb_small_odd": "", "SC_rgb_small_odd_big_endian": "", "SC_rgb_small_odd_jpeg": "",
    "SC_rgb_dcmtk_+eb+cr": "", "SC_rgb_jpeg_dcmtk": "", "SC_rgb_jpeg_app14_dcmd": "",
    "SC_ybr_full_422_uncompressed": "", "SC_rgb_jls_lossy_sample": "dcmdjpls", "SC_rgb_rle": "dcmdrle",
    "SC_rgb_rle_2frame": "dcmdrle", "examples_palette": "", "examples_rgb_color": "",
}  # fmt: skip


@pytest.mark.parametrize("name", IN_COLOUR)
def test_luma_of_real_colours_is_dcmtks(tmp_path: Path, name: str) -> None:
    source = path = Path(pydicom.__file__).parent / "data" / "test_files" / f"{name}.dcm"
    if IN_COLOUR[name]:
        path = tmp_path / "plain.dcm"
        subprocess.run([IN_COLOUR[name], "-q", str(source), str(path)], check=True, timeout=60)
    with Image.open(_converted(path, tmp_path)) as image:
        rgb = np.asarray(image.convert("RGB")).astype(np.float64)
    found = shown(source.read_bytes(), colour="grey", frames="first")
    # Where colours were stored as luma and chroma, DCMTK has rounded and clipped three channels on the way.
    assert np.abs(rgb @ [0.299, 0.587, 0.114] - found).max() < 2


def _converted(path: Path, folder: Path | None = None) -> Path:
    target = (folder or path.parent) / "colour.png"
    subprocess.run(["dcmj2pnm", "-q", "+on", str(path), str(target)], check=True, timeout=60)
    return target


X_RAYS = ["RG2_JPLL", "RG3_RLE"]  # Their lossless siblings have the same stored pixels: test_dicom_files.py.


@pytest.mark.parametrize("name", X_RAYS)
def test_real_x_rays_show_what_dcmtk_shows(data_root: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "image.dcm"
    tool = "dcmdrle" if name.endswith("RLE") else "dcmdjpeg"
    subprocess.run([tool, "-q", str(data_root / "dicom_xray" / name), str(path)], check=True, timeout=120)
    made = pydicom.dcmread(path)
    stored, *_ = next(decoded((data_root / "dicom_xray" / name).read_bytes()))
    assert (stored == made.pixel_array).all()
    if "WindowCenter" not in made:
        made.WindowCenter, made.WindowWidth = 500, 700
        made.save_as(path)
    expected, found = dcmtk(path, "+Wi", "1"), shown(path.read_bytes())
    assert np.ptp(expected) > 200
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("name", ["RG2", "RG3"])
def test_jpeg_2000_decodes_to_the_pixels_that_dcmtk_finds_in_its_sibling(
    data_root: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "image.dcm"
    source = data_root / "dicom_xray"
    subprocess.run(["dcmdrle", "-q", str(source / f"{name}_RLE"), str(path)], check=True, timeout=120)
    stored, *_ = next(decoded((source / f"{name}_J2KR").read_bytes()))
    assert (stored == pydicom.dcmread(path).pixel_array).all()


def decoded(data: bytes) -> Any:
    found = parse(data, "", headless=False)
    return decoded_frames(found, layout_of(found), (0,))


def _lossy_files(root: Path) -> dict[str, Path]:
    inside = Path(pydicom.__file__).parent / "data" / "test_files"
    folder = root / "dicom_transfer_syntaxes"
    found = {path.name: path for path in folder.iterdir() if "JPEGProcess" in path.name}
    return {
        **found,
        "RG2_JPLY": root / "dicom_xray" / "RG2_JPLY",
        "JPEG-lossy": inside / "JPEG-lossy.dcm",
        "JPGExtended": inside / "JPGExtended.dcm",
    }


def test_lossy_jpeg_of_8_and_12_bits_decodes_to_dcmtks_values(data_root: Path, tmp_path: Path) -> None:
    """Among them two files whose scans say 0 where they must say 63, and retired progressive processes."""
    files = _lossy_files(data_root)
    assert len(files) >= 9
    for name, source in files.items():
        path = tmp_path / "image.dcm"
        subprocess.run(["dcmdjpeg", "-q", str(source), str(path)], check=True, timeout=120)
        stored, *_ = next(decoded(source.read_bytes()))
        difference = np.abs(stored.astype(np.int64) - pydicom.dcmread(path).pixel_array)
        # Two inverse cosine transforms may round apart by one stored value.
        assert difference.max() <= (0 if "Process14" in name else 1), name


def test_jpeg_ls_decodes_to_dcmtks_values(data_root: Path, tmp_path: Path) -> None:
    for source in sorted((data_root / "dicom_transfer_syntaxes").glob("*JPEGLS*")):
        path = tmp_path / "image.dcm"
        subprocess.run(["dcmdjpls", "-q", str(source), str(path)], check=True, timeout=120)
        stored, *_ = next(decoded(source.read_bytes()))
        assert (stored == pydicom.dcmread(path).pixel_array).all(), source.name
