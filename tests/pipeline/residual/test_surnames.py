"""500 surnames of a small DICOM cohort: a clean output gives no alarm, each name is found when planted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import Manifest
from pipeline.residual.allowlist import Harmless, stands_for_a_name
from pipeline.residual.search.scanning import FindingKind, ValueScan, walk
from pipeline.residual.values.collecting import collect_values
from pipeline.residual.values.source_values import SourceValues
from pipeline.residual.values.spellings import is_too_short
from pipeline.residual.verify_source import verify_against
from tests.pipeline.residual.sources import named_dicom

LINES = Path(__file__).with_name("surnames.txt").read_text(encoding="utf-8").splitlines()
NAMES = [line for line in LINES if not line.startswith("#")]
CITATION = (
    "Baker A, Fisher B, Jordan C, Nelson D. Scans of the young and the long. Journal of Price and Power."
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    place = tmp_path_factory.mktemp("surnames")
    for number, name in enumerate(NAMES):
        folder = place / "scans" / ("effusion" if number % 2 else "normal")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:04}.dcm").write_bytes(named_dicom(f"{name}^Quendolina", number))
    source = {"kind": "dicom", "path": str(place / "scans"), "label": {"folder": 0},
              "patient": {"tag": "PatientID"}}  # fmt: skip
    body = {"name": "surnames", "citation": CITATION, "sources": [source]}
    return Manifest.model_validate(body).located(place)


@pytest.fixture(scope="module")
def values(manifest: Manifest) -> Iterator[SourceValues]:
    with collect_values(manifest) as collected:
        yield collected


def hits(values: SourceValues, folder: Path) -> set[str]:
    """Return the texts of all values that are found in a folder."""
    known = {value.number: value for batch in values.batches() for value in batch}
    scan = ValueScan({number: value.texts for number, value in known.items()}, values.own)
    found = [hit for name in walk(folder) for hit in scan.search_file(folder, name)]
    return {known[hit.value_number].text for hit in found if hit.kind is FindingKind.FOUND}


def test_the_list_has_500_surnames_and_none_is_a_term_or_a_placeholder() -> None:
    assert len(set(NAMES)) == len(NAMES) == 500
    assert NAMES[:3] == ["Smith", "Johnson", "Williams"]
    terms = Harmless()
    held = [name for name in NAMES if terms.holds_name(name) or stands_for_a_name(name)]
    assert [name for name in held if not is_too_short(name)] == []


def test_each_surname_is_searched_for_by_itself_and_the_short_ones_with_the_given_name(
    values: SourceValues,
) -> None:
    known = {value.text for batch in values.batches() for value in batch}
    assert [name for name in NAMES if not is_too_short(name) and name not in known] == []
    assert [name for name in NAMES if f"Quendolina {name}" not in known] == []


def test_the_clean_cohort_of_500_surnames_gives_no_alarm(
    manifest: Manifest, values: SourceValues, tmp_path: Path
) -> None:
    run_ingest(manifest, tmp_path / "cohort", IngestSettings(image_size=16, workers=1))
    report = verify_against(tmp_path / "cohort", values)
    assert report.leaks == (), [leak.sentence() for leak in report.leaks]
    assert report.not_searched == ()
    held = (tmp_path / "cohort" / "cohort.json").read_text(encoding="utf-8")
    assert CITATION in held
    # The same cohort with one name in it.
    body = json.loads(held)
    (tmp_path / "cohort" / "cohort.json").write_text(json.dumps({**body, "operator": "Nelson"}))
    assert {leak.attribute for leak in verify_against(tmp_path / "cohort", values).leaks} == {"PatientName"}


@pytest.mark.parametrize("form", ["JSON", "CSV", "Parquet", "sentences", "file names", "UTF-16"])
def test_each_of_500_surnames_is_found_where_it_is_planted(
    values: SourceValues, tmp_path: Path, form: str
) -> None:
    long = [name for name in NAMES if not is_too_short(name)]
    short = [f"Quendolina {name}" for name in NAMES if is_too_short(name)]
    planted = [*long, *short]
    table = pd.DataFrame({"class": "effusion", "note": planted})
    if form == "JSON":
        rows = [{"operator": name} for name in planted]
        (tmp_path / "a.json").write_text(json.dumps({"citation": CITATION, "rows": rows}, ensure_ascii=True))
    elif form == "CSV":
        table.to_csv(tmp_path / "a.csv", index=False)
    elif form == "Parquet":
        table.to_parquet(tmp_path / "a.parquet")
    elif form == "sentences":
        text = "".join(f"The scan of {name} was read by us.\n" for name in planted)
        (tmp_path / "a.md").write_text(text, encoding="utf-8")
    elif form == "UTF-16":
        # Two characters are four bytes there, which stand in any noise.
        planted = [name for name in planted if len(name) > 2]
        (tmp_path / "a.txt").write_bytes("; ".join(planted).encode("utf-16"))
    else:
        for number, name in enumerate(planted):
            (tmp_path / f"{number}-{name}.txt").write_bytes(b"")
    found = hits(values, tmp_path)
    assert [name for name in planted if name not in found] == []
