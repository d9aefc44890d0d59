"""A class, finding or dataset reads back from released tables as it was named, in the readers people use."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd
import pyarrow.csv
import pytest
import yaml

from pipeline.errors import DataError, ManifestError
from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import load_manifest
from pipeline.manifest.rules import NAME_PATTERN
from pipeline.manifest.table_names import name_problem
from tests.flows.conftest import Call, call
from tests.pipeline.ingest.scans import FOLDER_MANIFEST, manifest_of, write_images

__all__ = ["call"]

MISREAD = {
    "an empty cell": "None NA NULL NaN nan null Null",
    "a Boolean": "True true TRUE False false FALSE tRuE",
    "a number": "0 1 007 1.10 1. 1e5 1E5 inf Infinity NAN 0x10 0b1 1_000 20200101",
    "a date": "2020-01-01 2020-1-1",
}
KEPT = (
    "none na normal no_finding grade_0 yes no on off y N nil 1a 3d 9e v1.2.3 2020-01 NaT missing nothing "
    "COVID-19 1-2 0-1 infected Nancy true_positive"
)


def read_back(name: str) -> list[object]:
    """Return what pandas and Arrow make of a column of a CSV that holds the name alone, or beside another."""
    alone, beside = f"class,n\n{name},1\n{name},2\n", f"class,n\n{name},1\nzz,2\n"
    tables = [pd.read_csv(io.StringIO(text))["class"].tolist() for text in (alone, beside)]
    arrow = [pyarrow.csv.read_csv(io.BytesIO(text.encode()))["class"].to_pylist() for text in (alone, beside)]
    return [column[0] for column in (*tables, *arrow)]


@pytest.mark.parametrize(
    ("what", "name"), [(what, name) for what, names in MISREAD.items() for name in names.split()]
)
def test_a_name_that_a_reader_takes_for_something_else_is_refused(what: str, name: str) -> None:
    assert (
        any(found != name for found in read_back(name)) or yaml.safe_load(name) != name or name == "2020-1-1"
    )
    assert f"read {name!r} as {what}" in name_problem(name)


@pytest.mark.parametrize("name", KEPT.split())
def test_every_other_name_reads_back_as_it_is(name: str) -> None:
    assert read_back(name) == [name] * 4
    assert name_problem(name) == ""


def test_all_that_pandas_takes_for_nothing_is_refused_or_no_name_at_all() -> None:
    from pandas._libs.parsers import STR_NA_VALUES

    names = {text for text in STR_NA_VALUES if re.fullmatch(NAME_PATTERN, text)}
    assert len(names) > 4
    assert all(map(name_problem, names))


HEAD = "name: small\nsources:\n  - kind: images\n    path: scans\n    table: {path: t.csv}\n"
PLACES = {
    "name": HEAD.replace("small", "'NA'") + "    label: {value: a}\n",
    "classes.0": "classes: ['NA', b]\n" + HEAD + "    label: {column: c}\n",
    "priority.0": "priority: ['NA', b]\n" + HEAD + "    label: {columns: {x: fine, y: b}}\n",
    "sources.0.label.value": HEAD + "    label: {value: 'NA'}\n",
    "sources.0.label.values.x": HEAD + "    label: {column: c, values: {x: 'NA'}}\n",
    "sources.0.label.columns.x": HEAD + "    label: {columns: {x: 'NA'}}\n",
    "sources.0.label.none": HEAD + "    label: {columns: {x: a}, none: 'NA'}\n",
    "sources.0.labels.0": "name: m\nsources:\n  - {kind: medmnist, path: a.npz, labels: {0: 'NA'}}\n",
    "sources.0.none": "name: m\nsources:\n"
    "  - {kind: medmnist, path: a.npz, labels: {0: a}, multi_label: true, none: 'NA'}\n",
}


@pytest.mark.parametrize("field", PLACES)
@pytest.mark.parametrize("name", ["NA", "None", "true", "1"])
def test_wherever_a_manifest_names_what_lands_in_tables(tmp_path: Path, field: str, name: str) -> None:
    (tmp_path / "m.yaml").write_text(PLACES[field].replace("'NA'", f'"{name}"'))
    with pytest.raises(ManifestError, match=f"table readers read '{name}' as") as caught:
        load_manifest(tmp_path / "m.yaml")
    assert caught.value.field == field
    (tmp_path / "m.yaml").write_text(PLACES[field].replace("'NA'", "fine"))
    load_manifest(tmp_path / "m.yaml")


def test_a_folder_of_such_a_name_is_refused_by_validate_and_before_anything_is_read(
    tmp_path: Path, call: Call
) -> None:
    scans = write_images(tmp_path)
    (scans / "disc").rename(scans / "None")
    for picture in scans.rglob("*.png"):
        picture.write_bytes(b"unread")
    manifest = manifest_of(tmp_path)
    with pytest.raises(DataError, match=r"read 'None' as an empty cell.*label\.values"):
        run_ingest(manifest, tmp_path / "c", IngestSettings(image_size=16, workers=1))
    assert not (tmp_path / "c").exists()
    done = call("validate", str(tmp_path / "manifest.yaml"))
    assert done.code == 3
    assert "read 'None' as an empty cell" in done.err


@pytest.mark.parametrize("named", ["", "classes: [Disc, disc]\n"])
def test_two_classes_that_differ_in_case_only_are_refused(tmp_path: Path, named: str) -> None:
    for number, folder in enumerate(("Disc", "disc")):
        path = tmp_path / "scans" / f"{number}" / folder / "pat001_0.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"unread")
    text = FOLDER_MANIFEST.replace("*/*.png", "**/*.png").replace("{folder: 0}", "{folder: -1}")
    manifest = manifest_of(tmp_path, text + named)
    with pytest.raises(
        DataError, match=r"disc.*differs from the class Disc in case only|in case only.*'disc'"
    ):
        run_ingest(manifest, tmp_path / "c", IngestSettings(image_size=16, workers=1))
