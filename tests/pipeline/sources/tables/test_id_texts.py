"""Ids as people read them: which look alike, which name nobody, which a crowd of scans gives away."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from pipeline.sources.tables.patient_ids import (
    alike_numbers,
    crowded,
    looks_of,
    may_name_nobody,
    names_nobody,
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("00007", "7"),
        ("7.0", "7"),
        ("P-007", "p7"),
        ("P_007", "P 7"),
        (" 7\t", "7"),
        ("'00007", "7"),
        ("\N{ZERO WIDTH SPACE}7", "7"),
        ("\N{FULLWIDTH DIGIT SEVEN}", "7"),
        ("\N{ARABIC-INDIC DIGIT SEVEN}", "7"),
        ("MU\N{COMBINING DIAERESIS}LLER", "m\N{LATIN SMALL LETTER U WITH DIAERESIS}ller"),
        ("Patient-7", "PATIENT_7"),
        ("943-476-5919", "9434765919"),
        ("010101-1234", "0101011234"),
        ("1.2345678901234567e+16", "12345678901234567"),
        ("DOE^JOHN", "doe john"),
        ("SiteB-001", "SiteB_1"),
    ],
)
def test_ids_that_people_read_as_one_look_alike(one: str, other: str) -> None:
    first, second = alike_numbers([looks_of(one), looks_of(other)])
    assert first == second


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1-12", "11-2"),
        ("1-12", "112"),
        ("1.2.840.11", "1.2.84.011"),
        ("aGVsbG8", "AGVSBG8"),
        ("aB3x", "Ab3x"),
        ("a07f1", "a7f01"),
        ("7", "70"),
        ("A7", "B7"),
        ("7", "7a"),
        ("1-123456", "11-23456"),
        ("7", "-"),
        ("AB-C", "A-BC"),
        ("100", "1"),
    ],
)
def test_ids_of_two_people_do_not(one: str, other: str) -> None:
    first, second = alike_numbers([looks_of(one), looks_of(other)])
    assert first != second


def test_random_ids_of_an_archive_give_no_false_alarm() -> None:
    rng = np.random.default_rng(0)
    letters = list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
    for length, marks in ((6, letters), (8, list("0123456789abcdef")), (7, list("0123456789"))):
        ids = {"".join(rng.choice(marks, length)) for _ in range(3000)}
        assert len(set(alike_numbers(map(looks_of, ids)))) == len(ids), length
    uuids = {str(uuid.UUID(bytes=rng.bytes(16))) for _ in range(3000)}
    assert len(set(alike_numbers(map(looks_of, uuids)))) == len(uuids)
    sites = [f"{site}-{number}" for site in range(1, 40) for number in range(1, 100)]
    assert len(set(alike_numbers(map(looks_of, sites)))) == len(sites)


@pytest.mark.parametrize(
    "text",
    [
        *("ANONYMOUS", "anon", "Anonymized", "ANON^PATIENT", "UNKNOWN", "UNKNOWN^PATIENT", "PATIENT_UNKNOWN"),
        *(
            "N/A",
            "n.a.",
            "NA",
            "NaN",
            "<NA>",
            "#N/A",
            "NONE",
            "null",
            "-",
            "?",
            "___",
            "^^^^",
            "XXX",
            "xxxxxx",
        ),
        *(
            "ANONYM",
            "Anonyme",
            "ANONIMO",
            "An\N{LATIN SMALL LETTER O WITH ACUTE}nimo",
            "DESCONOCIDO",
            "inconnu",
        ),
        *("UNBEKANNT", "onbekend", "\N{CJK UNIFIED IDEOGRAPH-533F}\N{CJK UNIFIED IDEOGRAPH-540D}"),
        *("No_Name", "REDACTED", "DEIDENTIFIED"),
    ],
)
def test_what_de_identifiers_write_is_no_id(text: str) -> None:
    assert names_nobody(text)
    assert names_nobody(f" {text} ")
    assert names_nobody("")


@pytest.mark.parametrize(
    "text", ["ANON0007", "ANON-1", "Anonymous 12", "PAT7", "XX7", "NN4", "Nan^Li", "Smith^John", "unknown-3"]
)
def test_numbered_pseudonyms_and_names_are_ids(text: str) -> None:
    assert not names_nobody(text)
    assert not may_name_nobody(text)


@pytest.mark.parametrize(
    "text", ["0", "000000", "TEST", "999999", "123456", "ANON000", "PATIENT", "X", "zzz"]
)
def test_a_doubtful_id_is_one_unless_it_has_far_more_scans_than_any_patient(text: str) -> None:
    assert not names_nobody(text)
    assert may_name_nobody(text)
    assert crowded({text: 3, "b": 1, "c": 2}, {text}) == set()
    assert crowded({text: 30, "b": 2, "c": 2}, {text}) == {text}
