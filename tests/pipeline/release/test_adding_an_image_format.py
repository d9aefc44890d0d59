"""An image format is one entry of a table: with it alone, releases are written in it, listed and verified."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.artifacts.pixels import StoredPixels
from pipeline.errors import TamperedError, UsageError
from pipeline.release import ReleaseSettings, run_release, verify_release
from pipeline.release.formats import FORMATS, PNG, ImageFormat, Rows
from pipeline.release.layout import CSV_NAME, SUMS_NAME
from pipeline.release.verify import sums_text
from pipeline.stage import REFERENCE_NAME
from pipeline.storage import digest_files, digest_of

Gated = tuple[Path, Path]
CONTENT = ("images/", "arrays/", "metadata", "datalist")
HEADER = 128
"""Bytes before the values of a small array."""

BOTH = ReleaseSettings(formats=(PNG, "npy"))


def names(rows: Rows) -> list[str]:
    return [f"arrays/{row['class']}/{row['sample_id']}.npy" for row in rows]


def write(
    folder: Path, rows: Rows, pixel_rows: np.ndarray, take: Callable[[np.ndarray], StoredPixels]
) -> None:
    for name, image in zip(names(rows), take(pixel_rows), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, image[0])


def check(folder: Path, rows: Rows) -> None:
    for name, row in zip(names(rows), rows, strict=True):
        array = np.load(folder / name, allow_pickle=False)
        whole = array.nbytes + HEADER == (folder / name).stat().st_size
        if array.shape != (row["height"], row["width"]) or not whole:
            raise TamperedError(f"{name} is not the image of its row", field="release")


@pytest.fixture
def npy() -> Iterator[None]:
    """Put the format into the table, as a line of it would, and take it out again."""
    FORMATS["npy"] = ImageFormat(
        "arrays",
        write=write,
        names=names,
        check=check,
        label="array-files",
        description="Numpy arrays.",
        media_type="application/octet-stream",
        pattern="arrays/*/*.npy",
    )
    yield
    del FORMATS["npy"]


@pytest.mark.usefixtures("npy")
def test_a_release_holds_the_images_in_both_formats_and_says_so(gated: Gated, tmp_path: Path) -> None:
    reference = run_release(*gated, tmp_path / "r", BOTH, seed=1)
    assert verify_release(tmp_path / "r") == reference
    rows = list(csv.DictReader((tmp_path / "r" / CSV_NAME).open()))
    arrays = sorted(
        path.relative_to(tmp_path / "r").as_posix() for path in (tmp_path / "r").glob("arrays/*/*")
    )
    assert arrays == sorted(names(rows)) and len(arrays) == reference.counts["images"] > 0
    for row, name in zip(rows, names(rows), strict=True):
        shown = np.asarray(Image.open(tmp_path / "r" / row["file_name"]))
        assert np.array_equal(np.load(tmp_path / "r" / name), shown)
    recorded = json.loads((tmp_path / "r" / REFERENCE_NAME).read_text())["files"]
    assert set(arrays) < set(recorded)
    described = json.loads((tmp_path / "r" / "croissant.json").read_text())["distribution"]
    assert [part["@id"] for part in described] == [CSV_NAME, "image-files", "array-files"]
    assert "- `arrays/*/*.npy`: Numpy arrays." in (tmp_path / "r" / "DATASET_CARD.md").read_text()


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def forged(release: Path, change: Callable[[Path], Any]) -> Path:
    """Change a release and make its digests and checksums right again, as far as its formats go."""
    earlier = json.loads((release / REFERENCE_NAME).read_text())["digest"]
    change(release)
    files = files_of(release)
    content = digest_files(release, [name for name in files if name.startswith(CONTENT)])
    for name in (REFERENCE_NAME, "provenance.json", "DATASET_CARD.md"):
        path = release / name
        path.write_text(path.read_text().replace(earlier, digest_of(content)))
    record = json.loads((release / REFERENCE_NAME).read_text())
    (release / REFERENCE_NAME).write_text(json.dumps(record | {"files": content}))
    files = [name for name in files if (release / name).is_file() and name != SUMS_NAME]
    (release / SUMS_NAME).write_text(sums_text(digest_files(release, files)))
    return release


@pytest.mark.usefixtures("npy")
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda file: file.open("ab").write(b"more"), "is not the image of its row"),
        (lambda file: file.unlink(), "does not name the npy files"),
        (lambda file: file.with_name("other.npy").write_bytes(b""), "does not name the npy files"),
    ],
)
def test_its_files_are_verified(
    gated: Gated, tmp_path: Path, change: Callable[[Path], Any], problem: str
) -> None:
    run_release(*gated, tmp_path / "r", BOTH, seed=1)
    assert verify_release(forged(tmp_path / "r", lambda folder: None))
    with pytest.raises(TamperedError, match=problem):
        verify_release(forged(tmp_path / "r", lambda folder: change(next(folder.glob("arrays/*/*")))))


@pytest.mark.usefixtures("npy")
def test_without_its_record_it_is_neither_written_nor_trusted(
    gated: Gated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_release(*gated, tmp_path / "r", BOTH, seed=1)
    monkeypatch.delitem(FORMATS, "npy")
    with pytest.raises(TamperedError, match="does not belong to a release"):
        verify_release(tmp_path / "r")
    with pytest.raises(UsageError, match=r"release\.formats.*'npy'.*Choose from: png"):
        run_release(*gated, tmp_path / "s", BOTH, seed=1)
    monkeypatch.undo()


@pytest.mark.usefixtures("npy")
def test_the_format_that_the_tables_name_is_always_written(gated: Gated, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"png is missing: the tables name its files"):
        run_release(*gated, tmp_path / "r", ReleaseSettings(formats=("npy",)), seed=1)
    assert list(tmp_path.iterdir()) == []
