"""Patient ids as text: placeholders that identify nobody, and ids that differ only in spelling.

The normalised texts only serve for comparison. Patients with similar ids are reported, not merged.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TypeVar

from pipeline.sources.base import OWN_PATIENT

STAND_IN = "patient id is a placeholder"
"""Reason of refusal of a scan whose id is a placeholder; otherwise the scan counts as one without an id."""

STAND_IN_REMEDY = "give their patients in a table (patient.column), or exclude them (select, include)"

CROWD = 3
"""A doubtful id is a placeholder if it has more than this many times the scans of any other patient. A real
patient numbered 0 or named TEST has about as many scans as other patients."""

COMPACT_LENGTH = 6
"""Smallest length in characters at which an id with separators, `943-476-5919`, equals the id without them.
Shorter ids would collide: `1-12` and `11-2` are different from `112`."""

_NOBODY = """
    anonymous anon anonymized anonymised deidentified unidentified redacted removed deleted withheld masked
    hidden blank empty confidential unknown unkn unk unspecified undefined unassigned unavailable missing none
    null nil nul nan nat na noname noid nobody
    anonym anonymus anonymisiert unbekannt unbenannt entfernt anonyme anonymise anonymisee inconnu inconnue
    anonimo anonima anonimizado anonimizada desconocido desconocida desconhecido desconhecida anonimizzato
    anonimizzata sconosciuto sconosciuta ignoto ignota anoniem onbekend geanonimiseerd okand avidentifierad
    ukjent ukendt anonymisert anonymiseret anonimowy anonim nieznany nieznana anonymni neznamy anonyymi
    tuntematon bilinmiyor bilinmeyen ismeretlen nevtelen necunoscut аноним анонимный неизвестно неизвестный
    неизвестен ανωνυμος αγνωστος 匿名 不明 未知 無名 无名 名無し 익명 미상 مجهول
"""
_PHRASES = """
    n a|n d|n n|no id|no name|no patient|no patient id|no patient name|not available|not applicable|not known
    not given|not provided|john doe|jane doe|doe john|doe jane|keine angabe|ohne namen|sans nom|non renseigne
    non connu|sin nombre|sin id|sin identificar|no identificado|no identificada|no disponible|sem nome
    nao identificado|nao informado|senza nome|non disponibile|geen naam
"""
_BESIDE = """
    patient patients patientid patientname pat pid pt id ids name subject person case identifier identity
    record mrn number nr value the de del der paciente paziente pasient potilas
"""
_DOUBTFUL = "test testing tester dummy demo default tbd temp tmp example phantom x xx"

IdT = TypeVar("IdT", bound=Hashable)

_INVISIBLE = {"Cc", "Cf"}
_WORD = re.compile(r"[^\W\d_]+|\d+")
_PART = re.compile(r"[^\W_]+")
_ZEROS = re.compile(r"([^\W\d_]*)0+(\d+)")
_FLOAT = re.compile(r"\s*(\d+)\.0+\s*")
_POWER = re.compile(r"\s*\d(?:\.\d+)?[eE]\+\d{1,2}\s*")


def names_nobody(text: str) -> bool:
    """Return whether a patient id is a placeholder: no letters or digits, or a word such as `anonymous`.

    Args:
        text: the id in a table, file name or header, without the manifest's prefix.
    """
    words = _words(text)
    if not words or " ".join(words) in _phrases:
        return True
    if all(word in _nobody or word in _beside for word in words):
        return any(word in _nobody for word in words)
    return len(words) == 1 and re.fullmatch("x{3,}", words[0]) is not None


def may_name_nobody(text: str) -> bool:
    """Return whether a patient id is doubtful (`0`, `999999`, `123456`, `TEST`): a placeholder or a real id.

    Args:
        text: an id for which `names_nobody` is False.
    """
    words = _words(text)
    digits = "".join(word for word in words if word.isdecimal())
    others = [word for word in words if not word.isdecimal()]
    if not all(word in _nobody or word in _beside or word in _doubtful for word in others):
        return len(words) == 1 and len(words[0]) > 2 and len(set(words[0])) == 1
    if not digits.strip("0"):
        return True
    return not others and len(digits) > 3 and (len(set(digits)) == 1 or digits in "1234567890")


def crowded(scans: Mapping[IdT, int], doubtful: Collection[IdT]) -> set[IdT]:
    """Return the doubtful ids that are placeholders, by their numbers of scans.

    Args:
        scans: id (or its number) -> number of scans, for all patients.
        doubtful: ids that may be placeholders.
    """
    largest = max((count for patient, count in scans.items() if patient not in doubtful), default=0)
    return {patient for patient in doubtful if scans.get(patient, 0) > CROWD * max(largest, 1)}


def looks_of(patient: str) -> tuple[str, ...]:
    """Return the normalised texts of a patient id: one, or two if the id has separators.

    These make no difference: leading zeros, case, white space, separators between letters and digits, `.0`
    after a number, and other forms of a character (such as full-width ones). A separator between two numbers
    does: `1-12` differs from `11-2`. So does case in an id of mixed case, as in base64. The second text of an
    id with separators has none. A scan that is its own patient has no text.
    """
    if patient.startswith(OWN_PATIENT):
        return ()
    text = _plain(patient)
    if _FLOAT.fullmatch(text):
        text = text.split(".")[0]
    elif _POWER.fullmatch(text):
        # Spreadsheets write long numbers like this; the value is exact if all its digits are there.
        text = f"{Decimal(text.strip()):f}"
    parts = _PART.findall(text.casefold() if _one_case(text) else text)
    if not parts:
        return (text,)
    look = _number(parts[0])
    for before, part in itertools.pairwise(parts):
        apart = before[-1].isdecimal() == part[0].isdecimal()
        look += ("-" if apart else "") + _number(part)
    compact = "".join(parts)
    return (look, _number(compact)) if "-" in look and len(compact) >= COMPACT_LENGTH else (look,)


def alike_numbers(looks: Iterable[Sequence[Hashable]]) -> list[int]:
    """Return a number for each id; similar ids have the same number.

    Args:
        looks: `looks_of` each id, or pseudonyms of these texts.
    """
    known = list(looks)
    first: dict[Hashable, int] = {}
    numbers = [first.setdefault(look[0], at) if look else at for at, look in enumerate(known)]
    whole = {look[0]: number for look, number in zip(known, numbers, strict=True) if len(look) == 1}
    joined = {
        number: whole[look[1]]
        for look, number in zip(known, numbers, strict=True)
        if len(look) == 2 and look[1] in whole
    }
    return [joined.get(number, number) for number in numbers]


def _plain(text: str) -> str:
    """Return a text in one Unicode form, without invisible characters, its digits in ASCII."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        str(unicodedata.decimal(mark)) if mark.isdecimal() else mark
        for mark in unicodedata.normalize("NFKC", text)
        if unicodedata.category(mark) not in _INVISIBLE
    )


def _one_case(text: str) -> bool:
    """Return whether case is irrelevant: all letters have the same case, or every word is capitalised."""
    if text.upper() == text or text.lower() == text:
        return True
    return all(len(word) > 2 and word.istitle() for word in _WORD.findall(text) if not word.isdecimal())


def _number(part: str) -> str:
    """Return a part of an id without leading zeros, if its only number is at its end."""
    match = _ZEROS.fullmatch(part)
    return match.group(1) + match.group(2) if match else part


def _words(text: str) -> list[str]:
    """Return the words and numbers of a text, in lower case and without accents."""
    bare = unicodedata.normalize("NFKD", _plain(text).casefold())
    return _WORD.findall("".join(mark for mark in bare if not unicodedata.combining(mark)))


_nobody = frozenset(_words(_NOBODY))
_beside = frozenset(_words(_BESIDE))
_doubtful = frozenset(_words(_DOUBTFUL))
_phrases = frozenset(" ".join(_words(phrase)) for phrase in re.split(r"[|\n]", _PHRASES)) - {""}
