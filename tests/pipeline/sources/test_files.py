"""NIfTI files, image files and MedMNIST archives, each read from files written here."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DataError, ScanRefusedError
from pipeline.scan_attributes import age_band
from pipeline.sources import medmnist
from pipeline.sources.base import ImageOptions, NiftiOptions, ReadRule, Scan, ScanTask
from pipeline.sources.reading import read_scan

UPRIGHT = np.arange(35, dtype=np.float32).reshape(5, 7)


OPTIONS = {"nifti": NiftiOptions, "images": ImageOptions}


def read(folder: Path, name: str, kind: str, **options: object) -> Scan:
    rule = ReadRule(kind, str(folder), options=OPTIONS[kind](**options) if options else None)
    return read_scan(ScanTask(rule, name))


def as_ras(image: np.ndarray) -> np.ndarray:
    """(H, W) shown upright -> (W, 1, H) in RAS+: row r, column c at [W-1-c, 0, H-1-r]."""
    return image[::-1, ::-1].T[:, None, :]


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_frontal_nifti_image_stands_upright_whatever_its_stored_axes(
    tmp_path: Path, kind: type[nibabel.Nifti1Image], suffix: str
) -> None:
    affine = np.diag([0.5, 1.0, 0.25, 1.0])
    image = kind(as_ras(UPRIGHT), affine)
    nibabel.save(image, tmp_path / f"a{suffix}")
    turned = image.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    nibabel.save(turned, tmp_path / f"b{suffix}")
    for name in "ab":
        scan = read(tmp_path, name + suffix, "nifti")
        assert (scan.pixels == UPRIGHT).all()
        assert scan.spacing_mm == pytest.approx(0.25)
        assert scan.pixel_aspect == pytest.approx(2.0)


def test_a_big_endian_scaled_nifti_is_read(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    image = nibabel.Nifti1Image(as_ras(UPRIGHT) * 0.5, np.eye(4), header)
    nibabel.save(image, tmp_path / "a.nii")
    assert np.allclose(read(tmp_path, "a.nii", "nifti").pixels, UPRIGHT * 0.5, atol=1e-3)


def test_a_volume_needs_a_projection(tmp_path: Path) -> None:
    volume = np.concatenate([as_ras(UPRIGHT), as_ras(UPRIGHT) + 6, as_ras(UPRIGHT)], axis=1)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "v.nii")
    with pytest.raises(ScanRefusedError, match="projection"):
        read(tmp_path, "v.nii", "nifti")
    expected = {"middle": UPRIGHT + 6, "mean": UPRIGHT + 2, "max": UPRIGHT + 6}
    for projection, pixels in expected.items():
        assert np.allclose(read(tmp_path, "v.nii", "nifti", projection=projection).pixels, pixels)


@pytest.mark.parametrize("damage", ["truncate", "text", "4d", "gzip"])
def test_a_broken_nifti_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / ("a.nii.gz" if damage == "gzip" else "a.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 4 if damage == "4d" else 1)), np.eye(4)), path)
    if damage in {"truncate", "gzip"}:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "text":
        path.write_text("not an image " * 50)
    with pytest.raises(ScanRefusedError):
        read(tmp_path, path.name, "nifti")


def test_png_and_jpeg_of_8_and_16_bit_are_read_as_grey(tmp_path: Path) -> None:
    eight = (UPRIGHT * 7).astype(np.uint8)
    sixteen = (UPRIGHT * 1000).astype(np.uint16)
    Image.fromarray(eight).save(tmp_path / "a.png")
    Image.fromarray(sixteen).save(tmp_path / "b.png")
    Image.fromarray(np.repeat(eight[..., None], 3, axis=2)).save(tmp_path / "c.png")
    flat = np.full((32, 32), 90, dtype=np.uint8)
    Image.fromarray(np.repeat(flat[..., None], 3, axis=2)).save(tmp_path / "d.jpeg")
    assert (read(tmp_path, "a.png", "images").pixels == eight).all()
    scan = read(tmp_path, "b.png", "images")
    assert scan.pixels.dtype == np.uint16
    assert (scan.pixels == sixteen).all()
    assert scan.value_range is None
    assert (read(tmp_path, "c.png", "images").pixels == eight).all()
    assert abs(int(read(tmp_path, "d.jpeg", "images").pixels.mean()) - 90) <= 1
    assert scan.sha256 == hashlib.sha256((tmp_path / "b.png").read_bytes()).hexdigest()


def test_colour_corrupt_oversized_and_foreign_images_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    colour = np.zeros((16, 16, 3), dtype=np.uint8)
    colour[..., 0] = 255
    Image.fromarray(colour).save(tmp_path / "colour.png")
    Image.fromarray(colour[..., 1]).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:45])
    (tmp_path / "text.png").write_text("hello" * 20)
    Image.fromarray(colour[..., 1]).save(tmp_path / "a.gif")
    for name in ("colour.png", "half.png", "text.png", "a.gif", "none.png"):
        with pytest.raises(ScanRefusedError):
            read(tmp_path, name, "images")
    monkeypatch.setattr("pipeline.sources.base.MAX_PIXELS", 100)
    with pytest.raises(ScanRefusedError, match="too large"):
        read(tmp_path, "whole.png", "images")


def test_no_link_and_no_table_path_leads_out_of_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    Image.fromarray(UPRIGHT.astype(np.uint8)).save(tmp_path / "secret.png")
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    for name in ("link.png", "../secret.png"):
        with pytest.raises(ScanRefusedError, match="leads out"):
            read(inside, name, "images")
    Image.fromarray(UPRIGHT.astype(np.uint8)).save(inside / "own.png")
    (inside / "good.png").symlink_to(inside / "own.png")
    assert read(inside, "good.png", "images").pixels.shape == UPRIGHT.shape


def test_an_archive_is_read_row_by_row_with_its_range(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, train_images=images, train_labels=np.array([[0], [1], [1]], dtype=np.uint8))
    assert list(medmnist.rows(path)) == [("train", 0, "0"), ("train", 1, "1"), ("train", 2, "1")]
    scan = read_scan(ScanTask(ReadRule("medmnist", str(path)), "train/2"))
    assert (scan.pixels == images[2]).all()
    assert scan.value_range == (0.0, 255.0)


@pytest.mark.parametrize("damage", ["text", "keys", "pickle", "shape", "length"])
def test_a_wrong_archive_is_a_data_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.npz"
    images, labels = np.zeros((2, 8, 8), dtype=np.uint8), np.zeros((2, 1), dtype=np.uint8)
    if damage == "text":
        path.write_text("no archive")
    elif damage == "keys":
        np.savez(path, pictures=images)
    elif damage == "pickle":
        np.savez(path, train_images=np.array([{"a": 1}], dtype=object), train_labels=labels)
    elif damage == "shape":
        np.savez(path, train_images=np.zeros((2, 8, 8, 3), dtype=np.uint8), train_labels=labels)
    else:
        np.savez(path, train_images=images, train_labels=labels[:1])
    with pytest.raises(DataError):
        list(medmnist.rows(path))


def test_an_archive_that_would_unpack_without_bounds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images.npy", b"\0" * 2**20)
        archive.writestr("train_labels.npy", b"\0")
    monkeypatch.setattr(medmnist, "MAX_UNPACKED_BYTES", 2**16)
    with pytest.raises(DataError, match="unpacked size is too large"):
        medmnist.parts_of(path)


def test_ages_become_ten_year_bands() -> None:
    assert [age_band(years) for years in (0.5, 9, 10, 47.9, 95, -1, 200, None)] == [
        "0-9", "0-9", "10-19", "40-49", "90+", "", "", "",
    ]  # fmt: skip
