"""Tables beside the scans: every format, every kind of damage by name, joins, several rows of one scan."""

from __future__ import annotations

import contextlib
import gzip
import random
from pathlib import Path

import pandas as pd
import pytest

from pipeline.errors import DataError, ManifestError, PhosphorError
from pipeline.manifest.table_rules import TableRule
from pipeline.sources.tables import table_files
from pipeline.sources.tables.rows import file_key, folder_of, key_finder
from pipeline.sources.tables.tables import CONFLICT, SEVERAL, ScanTable

SECRET = "Doe^Jane-1962"


def table(
    path: Path, content: str | bytes, columns: tuple[str, ...] = ("label",), **rule: object
) -> ScanTable:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return ScanTable(path, ("file",), columns, field="table", **rule)  # type: ignore[arg-type]


def test_csv_gzip_and_parquet_hold_the_same_rows(tmp_path: Path) -> None:
    content = "file,other,label\na.png,1, normal \nb.png,2,\n"
    frame = pd.DataFrame({"file": ["a.png", "b.png"], "label": ["normal", None], "other": [1, 2]})
    frame.to_parquet(tmp_path / "t.parquet")
    expected = {"a.png": ("normal",), "b.png": ("",)}
    assert table(tmp_path / "t.csv", content).rows == expected
    assert table(tmp_path / "t.csv.gz", gzip.compress(content.encode())).rows == expected
    assert ScanTable(tmp_path / "t.parquet", ("file",), ("label",), field="table").rows == expected
    numbers = ScanTable(tmp_path / "t.parquet", ("other",), ("file",), field="table")
    assert numbers.cell("2", "file") == "b.png"


@pytest.mark.parametrize(
    ("encoding", "delimiter"), [("utf-8", ","), ("latin-1", ";"), ("utf-16", "\t"), ("cp1252", "|")]
)
def test_character_set_and_delimiter_are_the_manifests(tmp_path: Path, encoding: str, delimiter: str) -> None:
    content = delimiter.join(["file", "label"]) + "\n" + delimiter.join(["Müller.png", "süß"]) + "\n"
    found = table(tmp_path / "t.csv", content.encode(encoding), encoding=encoding, delimiter=delimiter)
    assert found.rows == {"Müller.png": ("süß",)}


def test_a_byte_order_mark_blank_lines_and_trailing_commas_are_no_damage(tmp_path: Path) -> None:
    content = "\ufefffile,label,\n\na.png,x,\nb.png,y,,,\n"
    assert table(tmp_path / "t.csv", content).rows == {"a.png": ("x",), "b.png": ("y",)}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (f"file,label\n{SECRET}.png\n", "line 2 has too few cells"),
        (f"file,label\na.png,x\n{SECRET}.png,x,y\n", "line 3 has too many cells"),
        (f"file,label\n{SECRET}.png,x\0y\n", "line 2 contains control characters"),
        (f"file,label\n{SECRET}.png,x\x1fy\n", "line 2 contains control characters"),
        (f"file,label\n{SECRET}.png,{'x' * 10_001}\n", "line 2 has a cell that is too long"),
        (f'file,label\n{SECRET}.png,"{"x" * 200_000}\n', "line 2 is not CSV, or has a cell that is too long"),
        (f"file,label\n{SECRET}.png,x\n{SECRET}.png,y\n", "line 3 has the same key as an earlier line"),
        (f"file,label,label\n{SECRET}.png,x,y\n", "the column 'label' twice"),
        (f"{SECRET}.png,x\n{SECRET}2.png,y\n", "the table has no column 'file'"),
        ("", "the table has no column 'file'"),
        (f"file,label\n{SECRET}.png,m\xfcde\n".encode("latin-1"), "not utf-8 text"),
        (f"file,label\n{SECRET}.png,x\n".encode("utf-16"), "not utf-8 text"),
        (",".join(f"c{n}" for n in range(5000)) + "\n", "more than 4096 columns"),
    ],
)
def test_damage_is_named_by_line_and_no_cell_is_quoted(
    tmp_path: Path, content: str | bytes, problem: str
) -> None:
    with pytest.raises((DataError, ManifestError)) as caught:
        table(tmp_path / "t.csv", content)
    assert problem in str(caught.value)
    assert "Doe" not in str(caught.value)


def test_a_column_that_is_nearly_there_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="Did you mean 'Label'"):
        table(tmp_path / "t.csv", "file,Label\na.png,x\n")


def test_no_table_can_grow_without_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = "file,label\n" + "".join(f"{n},x\n" for n in range(2000))
    with monkeypatch.context() as patch:
        patch.setattr(table_files, "MAX_ROWS", 1000)
        for name, content in (("t.csv", many.encode()), ("t.csv.gz", gzip.compress(many.encode()))):
            with pytest.raises(DataError, match="too large"):
                table(tmp_path / name, content)
        pd.DataFrame({"file": range(2000), "label": "x"}).to_parquet(tmp_path / "t.parquet")
        with pytest.raises(DataError, match="too large"):
            ScanTable(tmp_path / "t.parquet", ("file",), ("label",), field="table")
    bomb = gzip.compress(b"file,label\n" + b"a" * 2**22)
    with monkeypatch.context() as patch:
        patch.setattr(table_files, "MAX_TABLE_BYTES", 2**20)
        with pytest.raises(DataError, match="too large"):
            table(tmp_path / "t.csv.gz", bomb)
    with pytest.raises(DataError, match="a line has more than"):
        table(tmp_path / "t.csv.gz", bomb)


@pytest.mark.parametrize("name", ["t.csv.gz", "t.parquet"])
@pytest.mark.parametrize("content", [b"not packed at all", b"\x1f\x8b\x08\x00broken", b""])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(PhosphorError) as caught:
        table(tmp_path / name, content)
    assert caught.value.exit_code in {2, 3}


def test_no_damage_of_a_table_raises_anything_but_a_named_error(tmp_path: Path) -> None:
    draws = random.Random(4)
    rows = {"file": [f"a{number}" for number in range(40)], "label": ["x", "y"] * 20}
    pd.DataFrame(rows).to_parquet(tmp_path / "whole.parquet")
    pd.DataFrame(rows).to_csv(tmp_path / "whole.csv", index=False)
    packed = gzip.compress((tmp_path / "whole.csv").read_bytes(), mtime=0)
    wholes = {name: (tmp_path / f"whole.{name}").read_bytes() for name in ("csv", "parquet")}
    for name, whole in {**wholes, "csv.gz": packed}.items():
        for _ in range(150):
            broken = bytearray(whole)
            for _ in range(draws.choice([1, 2, 8])):
                broken[draws.randrange(len(broken))] = draws.randrange(256)
            with contextlib.suppress(PhosphorError):
                table(tmp_path / f"t.{name}", bytes(broken), repeated="agree")


def test_a_small_parquet_file_cannot_fill_the_memory_with_one_text(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    label = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array(["x" * 10**6]))
    files = pa.array([str(number) for number in range(20_000)])
    pq.write_table(pa.table({"file": files, "label": label}), tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 2**20  # as texts the column has 20 GB
    with pytest.raises(DataError, match="line 2 has a cell that is too long"):
        ScanTable(tmp_path / "t.parquet", ("file",), ("label",), field="table")


def test_several_files_make_one_table_and_a_mistake_names_the_file(tmp_path: Path) -> None:
    for name, content in (("a.csv", "file,label\na,x\n"), ("b.csv", "label,file\ny,b\n")):
        (tmp_path / name).write_text(content)
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    assert ScanTable(paths, ("file",), ("label",), field="table").rows == {"a": ("x",), "b": ("y",)}
    (tmp_path / "b.csv").write_text("file,label\na,x\n")
    with pytest.raises(DataError, match="earlier line"):
        ScanTable(paths, ("file",), ("label",), field="table")
    (tmp_path / "b.csv").write_text("file,label\na\n")
    with pytest.raises(DataError, match=r"table\.path\.1: line 2 has too few cells"):
        ScanTable(paths, ("file",), ("label",), field="table")


def test_a_nested_parquet_column_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"file": ["a"], "label": [["x", "y"]]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="'label' has nested or binary values"):
        ScanTable(tmp_path / "t.parquet", ("file",), ("label",), field="table")


def test_a_prefix_is_taken_off_the_file_column(tmp_path: Path) -> None:
    content = "file,label\nSet-v1/train/a.png,x\ntrain/b.png,y\n"
    found = table(tmp_path / "t.csv", content, strip_prefix=("Set-v1-small/", "Set-v1/"))
    assert set(found.rows) == {"train/a.png", "train/b.png"}


@pytest.mark.parametrize(
    ("repeated", "a", "b", "c"),
    [
        ("agree", CONFLICT, "1", CONFLICT),
        ("majority", "1", "1", CONFLICT),
        ("any", f"1{SEVERAL}0", "1", f"0{SEVERAL}1"),
    ],
)
def test_several_rows_of_one_scan(tmp_path: Path, repeated: str, a: str, b: str, c: str) -> None:
    rows = ["a,1,p", "a,0,p", "a,1,p", "b,1,p", "b,1,q", "c,0,p", "c,1,p"]
    found = table(
        tmp_path / "t.csv", "file,label,patient\n" + "\n".join(rows), ("label", "patient"),
        repeated=repeated, pooled={"label"},
    )  # fmt: skip
    assert [found.cell(key, "label") for key in "abc"] == [a, b, c]
    # Whatever decides the label, a scan has one patient or none that is known.
    assert [found.cell(key, "patient") for key in "abc"] == ["p", CONFLICT, "p"]


def test_a_join_by_other_keys_leaves_a_row_without_partner_open(tmp_path: Path) -> None:
    scans = table(
        tmp_path / "a.csv", "file,subject,study\na,1,7\nb,1,8\nc,17,\nd,2,9\n", ("subject", "study")
    )
    (tmp_path / "b.csv").write_text("subject_id,study_id,Edema\n1,7,1.0\n2,9,\n1,77,0\n")
    labels = ScanTable(
        tmp_path / "b.csv", ("subject_id", "study_id"), ("Edema",), field="join", between=SEVERAL
    )
    scans.join(labels, {"edema": "Edema"}, ("subject", "study"))
    assert [scans.cell(key, "edema") for key in "abcd"] == ["1.0", None, None, ""]
    assert scans.cell("a", "study") == "7"
    assert scans.cell("z", "edema") is None


def test_a_pattern_finds_what_file_and_table_have_in_common() -> None:
    key_of = key_finder(TableRule(path="t.csv", pattern="(p[0-9]+/.*)$"))
    assert key_of("set/train/p7/a.png") == key_of("batch 2 (train 1)/p7/a.png") == "p7/a.png"
    assert key_of("notes/a.png") == "notes/a.png"
    with pytest.raises(ValueError, match="give match or pattern"):
        TableRule(path="t.csv", pattern="(a)", match="name")


def test_a_file_meets_a_table_by_path_name_or_stem() -> None:
    name = "images_001/images/0001.v2.nii.gz"
    assert [file_key(name, match) for match in ("path", "name", "stem")] == [
        name, "0001.v2.nii.gz", "0001.v2",
    ]  # fmt: skip
    assert file_key("a/b.dicom", "stem") == "b"
    assert file_key("noend", "stem") == "noend"
    assert [folder_of("a/b/c.png", place) for place in (0, 1, -1, 2, -3)] == ["a", "b", "b", "", ""]
