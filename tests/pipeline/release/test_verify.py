"""Verification finds every change to a release, even where the checksums were made right again."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import DataError, TamperedError
from pipeline.records import ReleaseRef, Verdict
from pipeline.release import verify_release
from pipeline.release.images import encode_png, marks
from pipeline.release.layout import PARQUET_NAME
from pipeline.release.tables import schema, write_tables
from pipeline.release.verify import sums_text
from pipeline.stage import load_reference
from pipeline.storage import digest_files, digest_of

IMAGE = "images/mass/mass-000002.png"
KINDS = [
    IMAGE,
    "metadata.csv",
    "metadata.parquet/part-0.parquet",
    "datalist.json",
    "croissant.json",
    "privacy_report.json",
    "provenance.json",
    "DATASET_CARD.md",
    "preview.png",
    "reference.json",
    "SHA256SUMS",
]
CONTENT = ("images/", "metadata", "datalist")


def names_of(release: Path) -> list[str]:
    return [str(path.relative_to(release)) for path in sorted(release.rglob("*")) if path.is_file()]


def make_sums_right(release: Path) -> None:
    """Do what a careful forger would: mend content digest, reference, provenance, card and checksums."""
    names = [name for name in names_of(release) if name != "SHA256SUMS"]
    content = digest_files(release, [name for name in names if name.startswith(CONTENT)])
    record = json.loads((release / "reference.json").read_text())
    earlier, record["digest"] = record["digest"], digest_of(content)
    (release / "reference.json").write_text(json.dumps(record | {"files": content}))
    for name in ("provenance.json", "DATASET_CARD.md"):
        text = (release / name).read_text()
        (release / name).write_text(text.replace(earlier, record["digest"]))
    description = json.loads((release / "croissant.json").read_text())
    description["distribution"][0]["sha256"] = content.get("metadata.csv", "")
    (release / "croissant.json").write_text(json.dumps(description))
    (release / "SHA256SUMS").write_text(sums_text(digest_files(release, names)))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_an_intact_release_gives_its_reference(release: Path) -> None:
    reference = verify_release(release)
    assert reference == load_reference(ReleaseRef, release)
    assert reference.verdict is Verdict.PASS


def test_a_forger_who_changes_nothing_passes(release: Path) -> None:
    """The control of the tests below: mending alone breaks nothing."""
    make_sums_right(release)
    verify_release(release)


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("name", KINDS)
def test_one_flipped_bit_in_any_kind_of_file_is_found_and_named(release: Path, name: str, place: str) -> None:
    content = bytearray((release / name).read_bytes())
    content[{"first": 0, "middle": len(content) // 2, "last": -1}[place]] ^= 1
    (release / name).write_bytes(bytes(content))
    expected = name if name != "SHA256SUMS" else ""
    with pytest.raises(TamperedError) as caught:
        verify_release(release)
    assert expected in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", [name for name in KINDS if name != "reference.json"])
def test_a_missing_file_is_found(release: Path, name: str) -> None:
    (release / name).unlink()
    with pytest.raises(TamperedError, match=name):
        verify_release(release)


@pytest.mark.parametrize("mended", [False, True])
@pytest.mark.parametrize(
    "name", ["notes.txt", ".hidden", "images/mass/extra.png", "images/loose.png", "images/new/new-000000.png"]
)
def test_an_extra_file_is_found(release: Path, name: str, mended: bool) -> None:
    (release / name).parent.mkdir(exist_ok=True)
    (release / name).write_bytes((release / IMAGE).read_bytes())
    if mended:
        make_sums_right(release)
    with pytest.raises(TamperedError, match=r"release:"):
        verify_release(release)


@pytest.mark.parametrize("kind", ["file link", "folder link", "fifo", "deep folder"])
def test_links_and_special_files_are_refused(release: Path, tmp_path: Path, kind: str) -> None:
    if kind == "file link":
        (tmp_path / "copy").write_bytes((release / IMAGE).read_bytes())
        (release / IMAGE).unlink()
        (release / IMAGE).symlink_to(tmp_path / "copy")
    elif kind == "folder link":
        (release / "images" / "more").symlink_to(release / "images" / "mass")
    elif kind == "fifo":
        os.mkfifo(release / "pipe")
    else:
        (release / "images" / "mass" / "a" / "b").mkdir(parents=True)
    with pytest.raises(TamperedError, match="link, a special file, or too deep"):
        verify_release(release)


@pytest.mark.parametrize(
    "line",
    [
        "0" * 64 + "  ../candidates/reference.json\n",
        "0" * 64 + "  /etc/passwd\n",
        "0" * 64 + " *metadata.csv\n",
        "not a line\n",
        "\n",
    ],
)
def test_checksum_lines_that_lead_elsewhere_are_refused(release: Path, line: str) -> None:
    with (release / "SHA256SUMS").open("a") as stream:
        stream.write(line)
    with pytest.raises(TamperedError, match="SHA256SUMS"):
        verify_release(release)


def remark(image: bytes, old: bytes, new: bytes) -> bytes:
    start = image.index(b"tEXt" + old)
    length = struct.unpack(">I", image[start - 4 : start])[0]
    return image[: start - 4] + chunk(b"tEXt", new) + image[start + 8 + length :]


def with_image_data(image: bytes, raw: bytes) -> bytes:
    start = image.index(b"IDAT") - 4
    return image[:start] + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


IMAGE_CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "not an image": lambda _: b"<html>",
    "cut": lambda image: image[:-9],
    "no synthetic mark": lambda image: remark(image, b"Synthetic\0YES", b"Synthetic\0NO"),
    "another class": lambda image: remark(image, b"Class\0mass", b"Class\0normal"),
    "text after the end": lambda image: image + b"patient Jane Roe",
    "a text chunk more": lambda image: image.replace(
        struct.pack(">I", 0) + b"IEND", chunk(b"tEXt", b"Comment\0Jane Roe") + struct.pack(">I", 0) + b"IEND"
    ),
    "a foreign chunk": lambda image: image[:33] + chunk(b"eXIf", b"Jane Roe") + image[33:],
    "a wrong checksum": lambda image: image[:-1] + bytes([image[-1] ^ 1]),
    "too little image data": lambda image: with_image_data(image, bytes(100)),
    "a bomb": lambda image: with_image_data(image, bytes(50_000_000)),
    "data behind the image data": lambda image: with_image_data(image, bytes(16 * 17) + b"Jane Roe"),
    "huge by its header": lambda image: (
        image[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 2**30, 2**30, 8, 0, 0, 0, 0)) + image[33:]
    ),
    "colour": lambda image: (
        image[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)) + image[33:]
    ),
    "another size": lambda image: encode_png(np.zeros((8, 8), np.uint8), {}),
}


@pytest.mark.parametrize("change", IMAGE_CHANGES)
def test_a_wrong_image_is_found_though_every_checksum_is_right(release: Path, change: str) -> None:
    (release / IMAGE).write_bytes(IMAGE_CHANGES[change]((release / IMAGE).read_bytes()))
    make_sums_right(release)
    with pytest.raises(TamperedError, match="mass-000002"):
        verify_release(release)


def test_other_pixels_with_the_right_marks_change_the_content_digest(release: Path) -> None:
    before = verify_release(release).digest
    row = pq.read_table(release / "metadata.parquet").to_pylist()[1]
    (release / row["file_name"]).write_bytes(encode_png(np.zeros((16, 16), np.uint8), marks(row)))
    make_sums_right(release)
    assert verify_release(release).digest != before


def rows_of(release: Path) -> list[dict[str, Any]]:
    return pq.read_table(release / "metadata.parquet").to_pylist()


def rewritten(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    def edit(release: Path) -> None:
        rows = rows_of(release)
        change(rows)
        write_tables(release, rows, {row["class"]: row["label"] for row in rows})

    return edit


def more_columns(release: Path) -> None:
    table = pd.read_parquet(release / "metadata.parquet").assign(nearest="x")
    table.to_parquet(release / PARQUET_NAME)


def long_text(release: Path) -> None:
    rows = [row | {"sampler": "x" * 5000} for row in rows_of(release)]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema()), release / PARQUET_NAME)


TABLE_CHANGES: dict[str, Callable[[Path], None]] = {
    "a row not marked synthetic": rewritten(lambda rows: rows[0].update(synthetic=False)),
    "a row without a mark": rewritten(lambda rows: rows[0].update(synthetic=None)),
    "a row less": rewritten(lambda rows: rows.pop()),
    "a row twice": rewritten(lambda rows: rows.append(rows[0])),
    "another format": rewritten(lambda rows: rows[0].update(format_version=2)),
    "another size": rewritten(lambda rows: rows[0].update(width=17)),
    "another seed": rewritten(lambda rows: rows[0].update(seed=5)),
    "an image of another place": rewritten(lambda rows: rows[0].update(file_name="../x.png")),
    "a column more": more_columns,
    "a very long text": long_text,
    "not a table": lambda release: (
        (release / PARQUET_NAME).write_bytes(b"PAR1" + b"x" * 50 + b"PAR1") and None
    ),
    "a CSV of other rows": lambda release: (
        (release / "metadata.csv").write_text("sample_id\n=1+1\n") and None
    ),
    "a list of other labels": lambda release: edit_json(release / "datalist.json", training=[]),
    "a list that is no JSON": lambda release: (release / "datalist.json").write_text("[" * 100_000) and None,
}


@pytest.mark.parametrize("change", TABLE_CHANGES)
def test_a_wrong_table_is_found_though_every_checksum_is_right(release: Path, change: str) -> None:
    TABLE_CHANGES[change](release)
    make_sums_right(release)
    with pytest.raises(TamperedError):
        verify_release(release)


def fail_in_report(release: Path) -> None:
    text = (release / "privacy_report.json").read_text()
    (release / "privacy_report.json").write_text(text.replace('"PASS"', '"FAIL"'))


def fail_in_all(release: Path) -> None:
    for name in ("privacy_report.json", "reference.json", "provenance.json"):
        text = (release / name).read_text()
        (release / name).write_text(text.replace('"PASS"', '"FAIL"'))


def inconclusive_in_all(release: Path) -> None:
    for name in ("privacy_report.json", "reference.json", "provenance.json"):
        text = (release / name).read_text()
        (release / name).write_text(text.replace('"PASS"', '"INCONCLUSIVE"'))


DOCUMENT_CHANGES: dict[str, Callable[[Path], None]] = {
    "FAIL in the report": fail_in_report,
    "FAIL in all": fail_in_all,
    "INCONCLUSIVE under strict": inconclusive_in_all,
    "another verdict in the reference": lambda r: edit_json(r / "reference.json", verdict="INCONCLUSIVE"),
    "other counts": lambda r: edit_json(r / "reference.json", counts={"images": 11}),
    "another policy": lambda r: edit_json(r / "provenance.json", policy="anything"),
    "no digests": lambda r: edit_json(r / "provenance.json", digests=None),
    "no policy note": lambda r: edit_json(r / "privacy_report.json", policy_note=""),
    "a field more": lambda r: edit_json(r / "privacy_report.json", nearest={"s-1": 0.1}),
    "other candidates": lambda r: edit_json(r / "privacy_report.json", candidates_digest="0" * 64),
    "cohorts of a start": lambda r: edit_json(r / "privacy_report.json", earlier_cohorts=["0" * 64]),
    "a card that hides the verdict": lambda r: (r / "DATASET_CARD.md").write_text("# safe") and None,
    "no distribution": lambda r: edit_json(r / "croissant.json", distribution=[{}]),
}


@pytest.mark.parametrize("change", DOCUMENT_CHANGES)
def test_a_wrong_document_is_found_though_every_checksum_is_right(release: Path, change: str) -> None:
    make_sums_right(release)
    DOCUMENT_CHANGES[change](release)
    names = [name for name in names_of(release) if name != "SHA256SUMS"]
    (release / "SHA256SUMS").write_text(sums_text(digest_files(release, names)))
    with pytest.raises(TamperedError):
        verify_release(release)


def test_what_is_no_release_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a release"):
        verify_release(tmp_path)
