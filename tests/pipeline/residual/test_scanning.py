"""The residual scanner finds every planted value, however it is written, and nothing where there is none."""

from __future__ import annotations

import base64
import bz2
import gzip
import html
import io
import json
import lzma
import os
import struct
import tarfile
import urllib.parse
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from pipeline.residual import Finding, FindingKind, problems, scan_for_values
from pipeline.residual.search.matcher import Matcher

NAME = "Grünwald^Änne Maria"
NUMBER = "MRN-0048817"
UID = "1.2.826.0.1.3680043.8.498.77123"
VALUES = [NAME, NUMBER, UID]
PLAIN = f"name={NAME}; id={NUMBER}; uid={UID}."


def png_with(kind: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    if kind == "text":
        info.add_itxt("Comment", PLAIN)
    elif kind == "compressed":
        info.add_itxt("Comment", PLAIN, zip=True)
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def png_with_pixels() -> bytes:
    row = np.frombuffer(PLAIN.encode() * 8, np.uint8)[None].repeat(3, axis=0)
    raw = b"".join(b"\0" + line.tobytes() for line in row)
    packed = zlib.compress(raw)
    halves = (packed[: len(packed) // 2], packed[len(packed) // 2 :])

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", row.shape[1], row.shape[0], 8, 0, 0, 0, 0)
    idat = b"".join(chunk(b"IDAT", half) for half in halves)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + idat + chunk(b"IEND", b"")


def zipped(content: bytes, compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("inner.txt", content)
    return buffer.getvalue()


def tarred(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("inner.gz")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def parquet(compression: str) -> bytes:
    table = pa.table({"name": [NAME] * 3 + ["x"], "id": [NUMBER, UID, None, "y"], "blob": [b"z"] * 4})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression=compression)
    return buffer.getvalue()


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


UTF8 = PLAIN.encode()
NOISE = np.random.default_rng(5).integers(0, 256, 3000, dtype=np.uint8).tobytes()
PACKED = {
    "utf8": UTF8,
    "latin1": PLAIN.encode("latin-1"),
    "utf16le": PLAIN.encode("utf-16-le"),
    "utf16be": b"x" + PLAIN.encode("utf-16-be"),
    "upper": PLAIN.upper().encode(),
    "lower": PLAIN.lower().encode(),
    "between noise": NOISE + UTF8 + NOISE,
    "base64 at 0": base64.b64encode(UTF8),
    "base64 at 1": base64.b64encode(b"." + UTF8),
    "base64 at 2": base64.b64encode(b".." + UTF8),
    "base64 in lines": base64.encodebytes(b"padding " * 20 + UTF8 * 2),
    "base64 for URLs": base64.urlsafe_b64encode(b"\xff\xfe\xfb?" + UTF8),
    "base64 of UTF-16": base64.b64encode(PLAIN.encode("utf-16-le")),
    "base64 of gzip": b"data:;base64," + base64.b64encode(gzip.compress(UTF8 + NOISE)),
    "hex": UTF8.hex().encode(),
    "hex at 1": b"a" + UTF8.hex().upper().encode(),
    "html": html.escape(PLAIN).encode("ascii", "xmlcharrefreplace"),
    "html numeric": "".join(f"&#{ord(c)};" for c in PLAIN).encode(),
    "html hex": "".join(f"&#x{ord(c):x};" for c in PLAIN).encode(),
    "url": urllib.parse.quote(PLAIN, safe="").encode(),
    "url plus": urllib.parse.quote_plus(PLAIN).encode(),
    "json": json.dumps({"text": PLAIN}).encode(),
    "json all": "".join(f"\\u{ord(c):04x}" for c in PLAIN).encode(),
    "gzip": gzip.compress(UTF8),
    "gzip, second member": gzip.compress(b"nothing of interest here") + gzip.compress(UTF8),
    "zlib within noise": b"\0" * 50 + zlib.compress(UTF8) + NOISE,
    "zip deflated": zipped(UTF8, zipfile.ZIP_DEFLATED),
    "zip in zip": zipped(zipped(UTF8, zipfile.ZIP_DEFLATED), zipfile.ZIP_DEFLATED),
    "zip after noise": NOISE + zipped(UTF8, zipfile.ZIP_BZIP2),
    "gzip in tar": tarred(gzip.compress(UTF8)),
    "tar in gzip": gzip.compress(tarred(gzip.compress(UTF8))),
    "parquet zstd": parquet("zstd"),
    "parquet plain": parquet("none"),
    "npy bytes": saved(np.frombuffer(UTF8, np.uint8)),
    "npy text": saved(np.array([PLAIN, "other"])),
    "npy big-endian text": saved(np.array([PLAIN, "other"]).astype(">U120")),
    "png text": png_with("text"),
    "png compressed text": png_with("compressed"),
    "png pixels in two chunks": png_with_pixels(),
    "after a png's end": png_with("none") + gzip.compress(UTF8),
}

FOREIGN = {
    "bzip2": bz2.compress(UTF8),
    "xz": lzma.compress(UTF8),
    "zstd": pa.compress(UTF8, codec="zstd", asbytes=True),
    "7z": b"7z\xbc\xaf\x27\x1c" + NOISE,
    "RAR": b"Rar!\x1a\x07\x01\x00" + NOISE,
}
"""Archives that no output has."""


def found(findings: list[Finding]) -> set[int]:
    return {finding.value_number for finding in findings if finding.kind is FindingKind.FOUND}


@pytest.mark.parametrize("packing", PACKED)
def test_every_value_is_found_in_each_packing(tmp_path: Path, packing: str) -> None:
    (tmp_path / "file.bin").write_bytes(PACKED[packing])
    assert found(scan_for_values(tmp_path, VALUES)) == {0, 1, 2}


@pytest.mark.parametrize("packing", FOREIGN)
def test_an_archive_that_no_output_has_is_not_searched_and_that_is_said(tmp_path: Path, packing: str) -> None:
    (tmp_path / "file.bin").write_bytes(FOREIGN[packing])
    told = [f.detail for f in scan_for_values(tmp_path, VALUES) if f.kind is FindingKind.NOT_SEARCHED]
    assert "of a kind that no output has" in told


def test_a_whole_tree_of_packings_is_searched_and_each_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for number, content in enumerate(PACKED.values()):
        (tmp_path / "deep" / "er" / f"{number}.bin").write_bytes(content)
    findings = problems(scan_for_values(tmp_path, VALUES))
    assert {finding.file for finding in findings} == {f"deep/er/{n}.bin" for n in range(len(PACKED))}
    assert not any(value in repr(findings) for value in VALUES)


@pytest.mark.parametrize(
    "name",
    [
        f"{NUMBER}.png",
        f"{NUMBER.lower()}/x.png",
        base64.b64encode(NUMBER.encode()).decode() + ".bin",
        NUMBER.encode().hex() + ".bin",
    ],
)
def test_values_in_path_names_are_found(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    findings = scan_for_values(tmp_path, [NUMBER])
    assert found(findings) == {0}
    assert all(finding.inside.startswith("path") for finding in findings)


def test_the_target_of_a_link_is_text_and_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(UTF8)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").symlink_to(tmp_path / "outside")
    (tmp_path / "in" / "b").symlink_to(f"/data/{UID}")
    findings = scan_for_values(tmp_path / "in", VALUES)
    assert [(finding.value_number, finding.file) for finding in findings] == [(2, "b")]


def test_short_values_are_said_to_be_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("M 063Y " + NUMBER)
    findings = scan_for_values(tmp_path, ["M", "63", NUMBER])
    assert [f.value_number for f in findings if f.kind is FindingKind.TOO_SHORT] == [0, 1]
    assert found(findings) == {2}
    assert len(problems(findings)) == 1


def test_clean_files_give_no_finding(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "noise.bin").write_bytes(rng.integers(0, 256, 2**20, dtype=np.uint8).tobytes())
    (tmp_path / "zeros.npy").write_bytes(saved(np.zeros((64, 64))))
    (tmp_path / "table.parquet").write_bytes(_table_of(["other"] * 9))
    (tmp_path / "page.html").write_text("<p>&amp; 100&#37; \\u0041 " + base64.b64encode(NOISE).decode())
    (tmp_path / "image.png").write_bytes(png_with("none"))
    values = [*VALUES, *(f"p-{value:016x}" for value in rng.integers(0, 2**62, 2000))]
    assert scan_for_values(tmp_path, values) == []


def _table_of(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"name": names}), buffer)
    return buffer.getvalue()


def test_integer_columns_are_searched_as_text(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": [7, 48817001, 9]}), buffer)
    (tmp_path / "t.parquet").write_bytes(buffer.getvalue())
    assert found(scan_for_values(tmp_path, ["48817001", "48817002"])) == {0}


def test_a_bomb_is_cut_and_reported(tmp_path: Path) -> None:
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"\0" * 400_000_000))
    (tmp_path / "deep.gz").write_bytes(_nested(UTF8, 9))
    reported = {f.file: f.kind for f in scan_for_values(tmp_path, VALUES)}
    assert reported == {"bomb.gz": FindingKind.NOT_SEARCHED, "deep.gz": FindingKind.NOT_SEARCHED}


def _nested(content: bytes, depth: int) -> bytes:
    for _ in range(depth):
        content = gzip.compress(content)
    return content


@pytest.mark.parametrize("kind", ["encrypted zip", "damaged zip", "damaged parquet", "fifo"])
def test_what_cannot_be_searched_is_said(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "damaged parquet":
        path.write_bytes(b"PAR1" + NOISE + b"PAR1")
    else:
        content = bytearray(zipped(b"x" * 500 + NOISE, zipfile.ZIP_DEFLATED))
        central = content.rindex(b"PK\x01\x02")
        if kind == "encrypted zip":
            content[6] |= 1
            content[central + 8] |= 1
        else:
            content[60:120] = bytes(60)
        path.write_bytes(bytes(content))
    findings = scan_for_values(tmp_path, VALUES)
    assert [finding.kind for finding in findings] == [FindingKind.NOT_SEARCHED]


def test_a_damaged_gzip_gives_what_came_before_the_damage(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(UTF8 + os.urandom(200_000)))
    content[-20_000:-10_000] = bytes(10_000)
    (tmp_path / "half.gz").write_bytes(bytes(content))
    assert found(scan_for_values(tmp_path, VALUES)) == {0, 1, 2}


def test_named_files_alone_are_searched_when_asked(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(UTF8)
    (tmp_path / "b.txt").write_bytes(UTF8)
    assert {f.file for f in scan_for_values(tmp_path, VALUES, files=["b.txt"])} == {"b.txt"}


@given(
    st.lists(st.binary(min_size=4, max_size=24), min_size=1, max_size=20), st.binary(max_size=300), st.data()
)
def test_the_matcher_agrees_with_plain_search(
    patterns: list[bytes], data: bytes, draw: st.DataObject
) -> None:
    for pattern in draw.draw(st.lists(st.sampled_from(patterns), max_size=3)):
        at = draw.draw(st.integers(0, len(data)))
        data = data[:at] + pattern + data[at:]
    matcher = Matcher({pattern: {number} for number, pattern in enumerate(patterns)})
    last = {pattern: number for number, pattern in enumerate(patterns)}
    assert set(matcher.find(data)) == {number for pattern, number in last.items() if pattern in data}


def test_the_matcher_finds_what_straddles_its_blocks() -> None:
    pattern = b"straddling the border"
    for at in (4 * 2**20 - 20, 4 * 2**20 - 1, 4 * 2**20, 8 * 2**20 - 7):
        data = b"\0" * at + pattern + b"\0" * 100
        assert Matcher({pattern: {3}}).find(data) == {3: pattern}
