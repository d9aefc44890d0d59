"""A surname that is one of our words, or in a citation, is found as a value and harmless in our own text."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from pipeline.manifest import Manifest
from pipeline.residual.search.own_texts import OwnTexts
from pipeline.residual.values.collecting import collect_values
from pipeline.residual.verify_source import AgainstReport, verify_against
from tests.pipeline.residual.sources import named_dicom

OURS = ("Fisher", "Jordan", "Baker", "Nelson", "Fields", "Long", "Young", "Price", "Best", "Power", "Class")
CITATION = "Fisher R, Jordan M, Baker C, Nelson P. A set of quiet scans. Journal of Scans 7 (2021)."


def verified(source: Manifest | Path, output: Path) -> AgainstReport:
    with collect_values(source) as values:
        return verify_against(output, values)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    folder = tmp_path / "scans" / "effusion"
    folder.mkdir(parents=True)
    for number, name in enumerate((*OURS, "Okonkwo")):
        (folder / f"{number:04}.dcm").write_bytes(named_dicom(f"{name}^Quendolina", number))
    source = {"kind": "dicom", "path": str(tmp_path / "scans"), "label": {"folder": 0},
              "patient": {"tag": "PatientID"}}  # fmt: skip
    body = {"name": "quiet", "citation": CITATION, "sources": [source]}
    return Manifest.model_validate(body).located(tmp_path)


def written(folder: Path, **more: object) -> Path:
    """Write an output that cites the manifest and holds our own keys, columns and sentences."""
    folder.mkdir(parents=True)
    body = {"name": "quiet", "citation": CITATION, "classes": ["effusion"], "fields": 3, "power": 0.8,
            "class": "effusion", **more}  # fmt: skip
    (folder / "cohort.json").write_text(json.dumps(body))
    (folder / "metadata.csv").write_text("sample_id,class,seed\ns-1,effusion,7\n")
    pd.DataFrame({"class": ["effusion"], "power": [0.8]}).to_parquet(folder / "metadata.parquet")
    return folder


def test_a_citation_keys_and_columns_give_no_alarm(manifest: Manifest, tmp_path: Path) -> None:
    report = verified(manifest, written(tmp_path / "out"))
    assert report.clean, [leak.sentence() for leak in report.leaks]


@pytest.mark.parametrize("name", [*OURS, "Okonkwo"])
@pytest.mark.parametrize(
    "place", ["json value", "json list", "json key", "csv", "parquet", "sentence", "path"]
)
def test_a_surname_that_is_our_word_is_found_as_a_value(
    manifest: Manifest, tmp_path: Path, name: str, place: str
) -> None:
    output = written(tmp_path / "out")
    if place == "json value":
        (output / "cohort.json").write_text(json.dumps({"operator": name, "citation": CITATION}))
    elif place == "json list":
        (output / "cohort.json").write_text(json.dumps({"classes": ["effusion", name]}))
    elif place == "json key":
        (output / "cohort.json").write_text(json.dumps({f"{name} Quendolina": 3}))
    elif place == "csv":
        (output / "metadata.csv").write_text(f"sample_id,class\ns-1,{name}\n")
    elif place == "parquet":
        pd.DataFrame({"class": ["effusion", name]}).to_parquet(output / "metadata.parquet")
    elif place == "sentence":
        (output / "log.txt").write_text(f"the scan of {name} was read\n")
    else:
        (output / f"s-{name}.txt").write_text("")
    leaks = verified(manifest, output).leaks
    assert "PatientName" in {leak.attribute for leak in leaks}


def test_names_in_paths_and_tables_are_searched_too(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    (scans / "Baker").mkdir(parents=True)
    (scans / "Baker" / "Nelson_77.dcm").write_bytes(named_dicom("Okonkwo", 7))
    (scans / "list.csv").write_text("file,patient name\nx.dcm,Fisher\n")
    for name, where in (("Baker", "folder name"), ("Nelson", "file name"), ("Fisher", "table column 2")):
        output = written(tmp_path / name, operator=name)
        assert where in {leak.attribute for leak in verified(scans, output).leaks}


def test_a_placeholder_for_a_name_is_no_evidence(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.dcm").write_bytes(named_dicom("ANONYMOUS^PATIENT", 1))
    with collect_values(tmp_path / "scans") as values:
        texts = {value.text for batch in values.batches() for value in batch}
        assert not any("ANON" in text for text in texts)
        assert values.left_out["placeholder"]


OWN = OwnTexts(
    ["a long story of young scans", "price list", "power", "the best", "fields_scans", "a scan's young owner"]
)


@pytest.mark.parametrize(
    ("text", "word", "held"),
    [
        ("It is a long story of young scans, told.", "young", True),
        ("It is\n a  LONG story of **young** scans", "young", True),
        ("It is a long story of young Quendolina", "young", False),
        ("young", "young", False),
        # What a page escapes is no word of its own.
        ("It is a scan&#39;s young owner, told", "young", True),
        ("It is a scan&#39;s young Quendolina", "young", False),
        ('{"price list": 3}', "price", True),
        ("on the price list of it", "price", False),
        ('{"power": 3}', "power", True),
        ("power: 3", "power", True),
        ('{"name": "power"}', "power", False),
        ("<th>Power</th>", "power", True),
        ("<td>Power</td>", "power", False),
        ("power,price list\nx,y", "power", True),
        ("power,price list\npower,y", "power,y", False),
        ("power,someone\nx,y", "power", False),
        # Between the end of a sentence and a number that was filled in.
        ("It is over. The best 12: these", "best", True),
        ("It is the best 12: these", "best", False),
        ("It is over. The best scan", "best", False),
        # A setting's choices beside its name, and nowhere else.
        ("train:\n  network: small\n", "small", True),
        ('{"policy": "research"}', "research", True),
        ("name: small\n", "small", False),
        ("network: research\n", "research", False),
        # The names of tags of our pages, as tags.
        ("<br><code>s-1</code>", "code", True),
        ('<code class="x">', "code", True),
        ("<td>code</td>", "code", False),
        ("<okonkwo>", "okonkwo", False),
        # A name of several words that the manifest gives, as one word.
        ("Cohort fields_scans: quality", "fields", True),
        ("Cohort FIELDS_SCANS: quality", "scans", True),
        ("Cohort fields_scanser: quality", "fields", False),
        ("Cohort my_fields_scans: quality", "fields", False),
        ("Cohort fields: quality", "fields: quality", False),
    ],
)
def test_a_word_is_ours_where_the_text_around_it_is(text: str, word: str, held: bool) -> None:
    start = text.lower().rindex(word)
    assert OWN.hold(text.encode(), start, start + len(word)) is held


def test_in_a_piece_cut_out_of_a_text_what_is_missing_may_be_ours() -> None:
    data = b"of young scans"
    assert not OWN.hold(data[3:], 0, 5)
    assert OWN.hold(data, 3, 8, cut=True)
    assert not OWN.hold(b"young", 0, 5, cut=True)
