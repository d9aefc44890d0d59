"""Real DICOM files, ours and those inside pydicom: each one's outcome, and equal pixels among siblings."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pydicom
import pytest

from pipeline.errors import ScanRefusedError
from pipeline.sources.base import DicomOptions, ReadRule, ScanTask
from pipeline.sources.dicom import source as dicom
from pipeline.sources.dicom.layout import layout_of
from pipeline.sources.dicom.parse import parse
from pipeline.sources.dicom.pixels import decoded_frames

GOLDEN = Path(__file__).with_name("dicom_files.csv")
INSIDE_PYDICOM = Path(pydicom.__file__).parent / "data"
FOLDERS = {
    "ours": ("dicom_transfer_syntaxes", "dicom_xray"),
    "pydicom": ("test_files", "charset_files"),
}


def files(where: str, root: Path) -> dict[str, Path]:
    found = {}
    for folder in FOLDERS[where]:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and not path.name.startswith(".") and path.suffix not in {".py", ".pyc"}:
                found[f"{where}/{folder}/{path.relative_to(root / folder).as_posix()}"] = path
    return found


def outcome(path: Path) -> str:
    """What becomes of a file when as much as possible is read."""
    rule = ReadRule("dicom", str(path.parent), options=DicomOptions(frames="first", headless=True))
    try:
        (scan,) = dicom.read(ScanTask(rule, path.name), path.read_bytes())
    except ScanRefusedError as error:
        return error.problem
    height, width = scan.pixels.shape
    frames = layout_of(parse(path.read_bytes(), "", headless=True)).frames
    return f"read {height}x{width}" + (f"x{frames}" if frames > 1 else "")


def table(where: str, root: Path) -> dict[str, str]:
    return {name: outcome(path) for name, path in files(where, root).items()}


def differences(where: str, found: dict[str, str]) -> list[str]:
    with GOLDEN.open(encoding="utf-8", newline="") as stream:
        expected = {row["file"]: row["outcome"] for row in csv.DictReader(stream)}
    expected = {name: text for name, text in expected.items() if name.startswith(f"{where}/")}
    return [
        f"{name}: expected {expected.get(name, 'no such file')!r}, found {found.get(name, 'no such file')!r}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]


def stored(path: Path) -> str:
    """Digest of a file's stored pixels as whole numbers, whatever dtype they were decoded to."""
    header = parse(path.read_bytes(), "", headless=True)
    frames = decoded_frames(header, layout := layout_of(header), range(layout.frames))
    digest = hashlib.sha256()
    for pixels, *_ in frames:
        digest.update(np.ascontiguousarray(pixels, dtype=np.int64).tobytes())
    return digest.hexdigest()


def test_every_real_file_of_ours_has_its_outcome(data_root: Path) -> None:
    found = differences("ours", table("ours", data_root))
    assert not found, "\n" + "\n".join(found)


def test_every_file_inside_pydicom_has_its_outcome() -> None:
    found = differences("pydicom", table("pydicom", INSIDE_PYDICOM))
    assert not found, "\n" + "\n".join(found)


def test_every_frame_is_the_one_that_pydicom_decodes(data_root: Path) -> None:
    """Single frames, taken by number, against pydicom's array of all frames at once."""
    compared = 0
    for path in (*files("ours", data_root).values(), *files("pydicom", INSIDE_PYDICOM).values()):
        try:
            header = parse(path.read_bytes(), "", headless=False)
            layout = layout_of(header)
            array = pydicom.dcmread(path).pixel_array
        except Exception:  # Not read by one of them: the table of outcomes says which files are read.
            continue
        if layout.samples != 1 or layout.frames * layout.rows * layout.columns > 2_000_000:
            continue
        array = array.reshape(layout.frames, layout.rows, layout.columns)
        for index in range(layout.frames):
            ((pixels, *_),) = decoded_frames(header, layout, (index,))
            assert (pixels == array[index]).all(), path.name
        every = [pixels for pixels, *_ in decoded_frames(header, layout, range(layout.frames))]
        assert (np.stack(every) == array).all(), path.name
        compared += 1
    assert compared > 60


def test_lossless_siblings_of_real_images_have_the_same_pixels(data_root: Path) -> None:
    lossless = ("dcm", "Endian", "Lossless", "Process14", "RLE", "Deflated")
    family: dict[str, set[str]] = {}
    for name, path in files("ours", data_root).items():
        word = path.name.removeprefix("CTImage.dcm_").removesuffix(".dcm")
        if path.name.startswith("CTImage") and any(part in word for part in (*lossless[1:], "CTImage")):
            family.setdefault("CTImage", set()).add(stored(path))
        if "dicom_xray" in name and not path.name.endswith("JPLY"):
            family.setdefault(path.name[:3], set()).add(stored(path))
    assert {key: len(found) for key, found in family.items()} == {"CTImage": 1, "RG2": 1, "RG3": 1}


@pytest.mark.parametrize(
    "family",
    [
        [
            "MR_small", "MR_small_RLE", "MR_small_bigendian", "MR_small_expb", "MR_small_implicit",
            "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_padded",
        ],
        ["rtdose", "rtdose_expb", "rtdose_rle"],
        ["rtdose_1frame", "rtdose_expb_1frame", "rtdose_rle_1frame"],
        ["liver_1frame", "liver_expb_1frame"],
        ["SC_rgb_small_odd", "SC_rgb_small_odd_big_endian"],
    ],
    ids=lambda family: family[0],
)  # fmt: skip
def test_lossless_siblings_inside_pydicom_have_the_same_pixels(family: list[str]) -> None:
    assert len({stored(INSIDE_PYDICOM / "test_files" / f"{name}.dcm") for name in family}) == 1
