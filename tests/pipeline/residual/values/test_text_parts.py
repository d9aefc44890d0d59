"""What identifies within a longer text is searched for by itself, where it is long and rare enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.residual.values.collecting import collect_values
from pipeline.residual.values.source_values import Piece
from pipeline.residual.values.text_parts import number_pieces, word_pieces
from pipeline.residual.verify_source import verify_against
from tests.pipeline.residual.sources import named_dicom

COMMENT = (
    "Pat. of Dr Meierhuber, lives at Quendolinweg 17 in 04109 Leipzig, tel. +49 (30) 555-01423, "
    "record 55015319, seen on 17.03.1948 and 2021-09-04, before at 221 Baker Street; "
    "spacing 0.488281, UID 1.2.826.0.1.3680043"
)
HEADER = {
    "PatientComments": COMMENT,
    "InstitutionName": "Sankt Quendolin Hospital",
    "AccessionNumber": "MRN-77015319",
}


def texts(pieces: list[Piece]) -> set[str]:
    return {piece.text for piece in pieces}


@pytest.mark.parametrize(
    ("planted", "attribute"),
    [
        ("Quendolinweg 17", "PatientComments"),
        ("221 Baker Street", "PatientComments"),
        ("+49 (30) 555-01423", "PatientComments"),
        ("493055501423", "PatientComments"),
        ("55015319", "PatientComments"),
        ("1948-03-17", "PatientComments"),
        ("04.09.2021", "PatientComments"),
        ("Meierhuber", "PatientComments"),
        ("Quendolin", "InstitutionName"),
        ("77015319", "AccessionNumber"),
    ],
)
def test_a_part_of_a_longer_text_is_found(tmp_path: Path, planted: str, attribute: str) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.dcm").write_bytes(named_dicom("Okonkwo^Ada", 1, **HEADER))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.json").write_text(f'{{"note": "{planted}"}}')
    with collect_values(tmp_path / "scans") as values:
        leaks = verify_against(tmp_path / "out", values).leaks
    assert attribute in {leak.attribute for leak in leaks}


def test_fractions_uids_digests_and_short_numbers_are_no_numbers_of_their_own() -> None:
    text = "0.488281 1.2.826.0.1.3680043 120.5 40 kV 12345 ab1234567890cd1234567890 10.25\\0.75 1 2 3 4"
    assert texts(list(number_pieces("PatientComments", text))) == set()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("MRN-55015319", {"55015319"}),
        ("55015319", set()),
        ("tel 030/1234567", {"1234567", "030/1234567", "0301234567"}),
        ("(555) 010-4477", {"555) 010-4477", "5550104477"}),
        ("12, rue des Lilas", {"12, rue des Lilas"}),
        ("Hauptstraße 5a", {"Hauptstraße 5a"}),
    ],
)
def test_numbers_and_streets_of_a_text(text: str, parts: set[str]) -> None:
    assert texts(list(number_pieces("PatientComments", text))) == parts


def test_words_that_are_short_general_or_without_a_capital_are_not_searched_for() -> None:
    words = texts(list(word_pieces("InstitutionName", "Sankt Quendolin Hospital am persistent Berg")))
    assert words == {"Quendolin"}
    assert texts(list(word_pieces("InstitutionName", "Quendolin"))) == set()
