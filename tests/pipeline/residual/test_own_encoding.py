"""Ids that real archives have: what our own files spell by themselves is no alarm, the same id planted is."""

from __future__ import annotations

import hashlib
import json
import struct
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.residual import FindingKind, problems, scan_for_values

ROWS = 103_000
DIGITS = st.from_regex(r"[1-9][0-9]{5,9}", fullmatch=True)
RUNS = st.builds(lambda letter, size: letter * size, st.sampled_from("123456789X"), st.integers(6, 10))
RAMPS = st.sampled_from(
    # The last is a palette's, in which no case may be folded before it is told.
    [
        "123456",
        "234567",
        "3456789",
        "0123456",
        "01234567",
        "0123456789",
        "987654",
        "abcdefgh",
        ">?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[",
    ]
)
DECIMALS = st.one_of(
    st.sampled_from(["0.75", "10.0", "0.488281", "1.25", "-0.488281", "1e-05"]),
    st.builds(lambda a, b: f"{a}.{b}", st.integers(0, 999), st.integers(10, 999_999)),
)
IN_INDEX = st.integers(100_000, ROWS - 1001).map(str)
IDS = st.one_of(DIGITS, RUNS, RAMPS, DECIMALS, IN_INDEX)


def relaxed(examples: int) -> settings:
    return settings(
        max_examples=examples,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


def found(folder: Path, value: str) -> bool:
    return any(hit.kind is FindingKind.FOUND for hit in scan_for_values(folder, [value]))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return files with index columns, decimals, palettes, ramps, runs and hexadecimal digits."""
    folder = tmp_path_factory.mktemp("ours")
    rng = np.random.default_rng(4)
    rows = np.arange(ROWS)
    steps = rng.choice([0.75, 10.0, 0.488281, 1.25, -0.488281, 1e-05], ROWS)
    frame = pd.DataFrame({"index": rows, "place": rows % 7, "again": rows % 1000, "spacing_mm": steps})
    frame.astype({"place": np.int16}).to_parquet(folder / "rows.parquet")
    pq.write_table(pa.table({"n": pa.array(rows, pa.int32())}), folder / "plain.parquet",
                   compression="none", use_dictionary=False)  # fmt: skip
    frame[:102_000].to_csv(folder / "rows.csv", index=False)
    frame[:2000].assign(name="x").iloc[:, ::-1].to_csv(folder / "turned.csv")
    (folder / "rows.json").write_text(json.dumps({"rows": list(range(ROWS)), "steps": steps[:999].tolist()}))
    (folder / "lines.json").write_text(json.dumps(list(range(1, ROWS)), indent=2))
    (folder / "palette.bin").write_bytes(bytes(range(256)) + np.arange(256).repeat(3).astype("u1").tobytes())
    (folder / "lut.bin").write_bytes(b"".join(struct.pack(f"<256{kind}", *range(256)) for kind in "HIQ"))
    (folder / "lut_big.bin").write_bytes(struct.pack(">256H", *range(256)))
    (folder / "runs.txt").write_text("".join(f"{letter * 40}\n" for letter in "123456789XabcdefX=-"))
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16), "P")
    image.putpalette([value for value in range(256) for _ in range(3)])
    image.save(folder / "ramp.png")
    image.save(folder / "ramp.tiff")
    np.save(folder / "ramp.npy", np.arange(4096, dtype=np.int16))
    svg = (
        '<svg width="0.75" x="10.0"><path d="M 0.488281 10.0 L 1.25,0.75" style="stroke-width: 0.75"/></svg>'
    )
    (folder / "figure.svg").write_text(svg)
    digests = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(2000)]
    draws = [digest[:12] for digest in digests]
    uuids = [str(uuid.UUID(digest[:32])) for digest in digests]
    (folder / "draws.json").write_text(json.dumps([{"draw": "101939d660d5"}, *draws, *uuids]))
    return folder


def to_parquet(folder: Path, cells: list[object]) -> None:
    pd.DataFrame({"a": cells}).to_parquet(folder / "a.parquet")


PLANT: dict[str, Callable[[Path, str], object]] = {
    "json": lambda folder, value: (folder / "a.json").write_text(json.dumps({"patient": value})),
    "text column": lambda folder, value: to_parquet(folder, ["x", value, "y"]),
    "UTF-16": lambda folder, value: (folder / "a.txt").write_bytes(f'the "{value}" of'.encode("utf-16-le")),
    "UTF-32": lambda folder, value: np.save(folder / "a.npy", np.array([f'the "{value}" of'])),
    "quoted CSV": lambda folder, value: (folder / "a.csv").write_text(f'"a","b"\n"x","{value}"\n'),
}


@relaxed(8)
@given(st.lists(IDS, min_size=30, max_size=60))
def test_our_own_encoding_spells_no_id(ours: Path, values: list[str]) -> None:
    hits = problems(scan_for_values(ours, values))
    assert [(values[hit.value_number], hit) for hit in hits] == []


@pytest.mark.parametrize("place", PLANT)
@relaxed(25)
@given(value=IDS)
def test_the_same_id_is_found_as_a_value(
    tmp_path_factory: pytest.TempPathFactory, place: str, value: str
) -> None:
    folder = tmp_path_factory.mktemp("planted")
    PLANT[place](folder, value)
    assert found(folder, value)


def around(number: int) -> list[int]:
    return list(range(number - 70, number + 70))


NUMBERS: dict[str, Callable[[Path, int], object]] = {
    "integer column": lambda folder, number: to_parquet(folder, [7, number, 9]),
    "in an index": lambda folder, number: to_parquet(folder, [0, 1, number, 3]),
    "in order": lambda folder, number: to_parquet(folder, [*around(number)]),
    "CSV": lambda folder, number: pd.DataFrame({"a": around(number)}).to_csv(folder / "a.csv"),
    "JSON": lambda folder, number: (folder / "a.json").write_text(json.dumps(around(number))),
    "text": lambda folder, number: (folder / "a.txt").write_text(f"patient {number}, seven scans"),
    "file name": lambda folder, number: (folder / f"s-{number}.txt").write_text(""),
}


@pytest.mark.parametrize("place", NUMBERS)
@pytest.mark.parametrize("number", [123456, 101939, 234567, 48817001, 1111111, 99999999])
def test_a_number_that_is_no_count_is_found(tmp_path: Path, place: str, number: int) -> None:
    NUMBERS[place](tmp_path, number)
    assert found(tmp_path, str(number))


def test_a_patient_with_seven_scans_leaks_nothing(tmp_path: Path) -> None:
    pd.DataFrame({"scan": range(7), "sample_id": [f"s-{n:016x}" for n in range(7)]}).to_parquet(
        tmp_path / "a.parquet"
    )
    assert not found(tmp_path, "123456")
    assert not found(tmp_path, "0123456")
