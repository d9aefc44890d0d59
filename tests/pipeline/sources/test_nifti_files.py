"""NIfTI files beyond the plain case: windows, byte orders, scaling, oblique axes, and hostile headers."""

from __future__ import annotations

import contextlib
import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipeline.errors import ScanRefusedError
from pipeline.ingest.reading.geometry import to_square
from pipeline.sources import nifti
from tests.pipeline.sources.test_files import UPRIGHT, as_ras, read


def saved(path: Path, data: np.ndarray, affine: np.ndarray | None = None, **header: object) -> Path:
    made = nibabel.Nifti1Image(data, np.eye(4) if affine is None else affine)
    for name, value in header.items():
        made.header[name] = value
    nibabel.save(made, path)
    return path


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 1), (7, 5, 1, 1)])
def test_a_flat_image_needs_no_projection(tmp_path: Path, shape: tuple[int, ...]) -> None:
    flat = UPRIGHT[::-1, ::-1].T.reshape(shape)
    nibabel.save(nibabel.Nifti1Image(flat, np.diag([0.5, 0.25, 1, 1])), tmp_path / "a.nii")
    scan = read(tmp_path, "a.nii", "nifti")
    assert (scan.pixels == UPRIGHT).all()
    assert scan.spacing_mm == pytest.approx(0.25)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_projection_runs_along_the_axis_that_is_named(tmp_path: Path, axis: int) -> None:
    volume = np.random.default_rng(axis).integers(0, 99, (3, 4, 5)).astype(np.float32)
    saved(tmp_path / "v.nii", volume)
    found = read(tmp_path, "v.nii", "nifti", projection="max", axis=axis).pixels
    assert (found == volume.max(axis=axis)[::-1, ::-1].T).all()


def test_a_hounsfield_window_fixes_black_and_white_and_comes_before_the_projection(tmp_path: Path) -> None:
    volume = np.zeros((4, 3, 6), np.int16)
    volume[:, 0], volume[:, 1], volume[:, 2] = -3000, 100, 3000
    volume[0] = -1000
    volume[3] = 400
    saved(tmp_path / "ct.nii", volume)
    scan = read(tmp_path, "ct.nii", "nifti", projection="mean", window=(-1000.0, 400.0))
    assert scan.value_range == (-1000.0, 400.0)
    # The mean of -1000, 100 and 400; uncut it would be 33.
    assert scan.pixels[0, 1] == pytest.approx(-500 / 3)
    shown = to_square(scan.pixels, 6, fit="pad", pixel_aspect=1, black_white=scan.value_range, bit_depth=8)
    assert set(np.unique(shown)) == {0, 152, 255}
    assert read(tmp_path, "ct.nii", "nifti", projection="mean").value_range is None


@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Header, nibabel.Nifti2Header])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_every_type_in_both_byte_orders_and_versions(
    tmp_path: Path, endianness: str, kind: type, dtype: type
) -> None:
    header = kind(endianness=endianness)
    header.set_data_dtype(dtype)
    image = nibabel.Nifti2Image if kind is nibabel.Nifti2Header else nibabel.Nifti1Image
    nibabel.save(image(as_ras(UPRIGHT).astype(dtype), np.eye(4), header), tmp_path / "a.nii")
    assert (read(tmp_path, "a.nii", "nifti").pixels == UPRIGHT).all()


def test_scaled_integers_are_brought_to_their_values(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii", as_ras(UPRIGHT).astype(np.int16))
    content = bytearray(path.read_bytes())
    content[112:120] = struct.pack("<ff", 2.5, -1024.0)  # scl_slope, scl_inter
    path.write_bytes(content)
    assert np.allclose(read(tmp_path, "a.nii", "nifti").pixels, UPRIGHT * 2.5 - 1024)


def test_oblique_axes_are_taken_to_the_nearest_and_the_spacing_stays(tmp_path: Path) -> None:
    turn = np.deg2rad(20)
    affine = np.eye(4)
    affine[:3, :3] = np.array(
        [[np.cos(turn), 0, -np.sin(turn)], [0, 1, 0], [np.sin(turn), 0, np.cos(turn)]]
    ) @ np.diag([0.5, 1.0, 0.25])
    saved(tmp_path / "a.nii", as_ras(UPRIGHT), affine)
    flipped = affine.copy()
    flipped[:, 0] *= -1
    saved(tmp_path / "b.nii", as_ras(UPRIGHT)[::-1], flipped)
    for name in ("a.nii", "b.nii"):
        scan = read(tmp_path, name, "nifti")
        assert (scan.pixels == UPRIGHT).all()
        assert scan.spacing_mm == pytest.approx(0.25)
        assert scan.pixel_aspect == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("shape", "problem"),
    [((3, 4, 5, 2), "not a 2D image or a volume"), ((3, 4, 5, 1, 2), "not a 2D"), ((3, 4, 5), "a volume")],
)
def test_what_is_neither_flat_nor_a_projected_volume_is_refused(
    tmp_path: Path, shape: tuple[int, ...], problem: str
) -> None:
    saved(tmp_path / "a.nii", np.zeros(shape, np.float32))
    with pytest.raises(ScanRefusedError, match=problem):
        read(tmp_path, "a.nii", "nifti")


@pytest.mark.parametrize("damage", ["huge", "wraps", "type", "nan", "colour", "magic", "offset"])
def test_a_hostile_header_is_refused_by_a_short_reason(tmp_path: Path, damage: str) -> None:
    path = saved(tmp_path / "a.nii", as_ras(UPRIGHT))
    content = bytearray(path.read_bytes())
    if damage == "huge":
        content[40:48] = struct.pack("<4h", 3, 32767, 32767, 32767)
    elif damage == "wraps":
        made = nibabel.Nifti2Image(as_ras(UPRIGHT), np.eye(4))
        nibabel.save(made, path)
        content = bytearray(path.read_bytes())
        content[16:48] = struct.pack("<4q", 3, 2**32, 2**32, 1)
    elif damage == "type":
        content[70:72] = struct.pack("<h", 9999)
    elif damage == "nan":
        content[352:356] = struct.pack("<f", float("nan"))
    elif damage == "colour":
        saved(path, np.zeros((4, 1, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]))
        content = bytearray(path.read_bytes())
    elif damage == "magic":
        content[344:348] = b"abcd"
    else:
        content[108:112] = struct.pack("<f", 1e9)
    path.write_bytes(content)
    with pytest.raises(ScanRefusedError) as caught:
        read(tmp_path, "a.nii", "nifti")
    assert len(caught.value.problem) < 60


def test_no_byte_of_an_odd_header_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "a.nii", as_ras(UPRIGHT))
    content = bytearray(path.read_bytes())
    content[344:348] = b"Doe^"
    content[76:80] = struct.pack("<f", -3)
    path.write_bytes(content)
    with caplog.at_level("DEBUG"):
        for _ in range(2):
            with contextlib.suppress(ScanRefusedError):
                read(tmp_path, "a.nii", "nifti")
    assert not [record for record in caplog.records if record.name.startswith("nibabel")]
    assert capfd.readouterr() == ("", "")


def test_a_gzip_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.nii.gz").write_bytes(
        gzip.compress(nibabel.Nifti1Image(UPRIGHT, np.eye(4)).to_bytes() + b"\0" * 2**22)
    )
    monkeypatch.setattr(nifti, "MAX_FILE_BYTES", 2**20)
    with pytest.raises(ScanRefusedError, match="file too large"):
        read(tmp_path, "a.nii.gz", "nifti")
