"""Stored attributes of a scan, one record each: where they are read from, and the values that are stored."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

VIEWS = frozenset({"AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO", "LATERAL", "LAT"})
"""View positions that are stored (PS3.3 C.8.11.5, and terms of archives); all others are dropped."""

_AGE_STRING = re.compile(r"(\d{1,4})([DWMY])")
_HEADER_AGE = re.compile(r"[0-9]{3}[DWMY]")
_A_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}


@dataclass(frozen=True)
class ScanAttribute:
    """Attribute of a scan.

    Its name is a column of the cohort's records and of a release's tables, and a value of `train.conditions`.

    Attributes:
        key: name below `attributes` in a manifest.
        column: description of the column that a manifest names for it.
        from_cell: function from a cell of that column to the value to store, empty if unknown. There are at
            most 255 values. They are short and safe in a table: letters, digits, space, dot, dash,
            underscore, a plus sign at the end.
        meaning: description of the value of a synthetic image.
        tag: tag of the DICOM attribute that is read if no table has the attribute.
        keyword: keyword of that DICOM attribute; empty if there is none.
        vr: value representation of that DICOM attribute.
        from_header: as `from_cell`, for the text of that DICOM attribute.
    """

    key: str
    column: str
    from_cell: Callable[[str], str]
    meaning: str
    tag: int = 0
    keyword: str = ""
    vr: str = "CS"
    from_header: Callable[[str], str] = lambda text: ""


def sex_code(text: str) -> str:
    """Return `F`, `M` or `O` for a table cell or a DICOM value, empty for anything else."""
    known = {"F": "F", "FEMALE": "F", "M": "M", "MALE": "M", "O": "O", "OTHER": "O"}
    return known.get(text.strip().upper(), "")


def age_band(years: float | None) -> str:
    """Return the ten-year band of an age, such as `40-49`; `90+` from 90; empty if unknown or implausible."""
    if years is None or not 0 <= years <= 130:
        return ""
    decade = int(years // 10) * 10
    return "90+" if decade >= 90 else f"{decade}-{decade + 9}"


def years(text: str) -> float | None:
    """Return an age in years, from a number or a DICOM age (`058Y`, `006M`), otherwise None."""
    match = _AGE_STRING.fullmatch(text.upper())
    if match:
        return int(match.group(1)) / _A_YEAR[match.group(2)]
    return number_of(text, None)


def number_of(text: str, default: float | None) -> float | None:
    """Return a finite number, `default` for an empty cell or anything else."""
    try:
        found = float(text) if text else default
    except ValueError:
        return default
    return found if found is None or math.isfinite(found) else default


def view_code(text: str) -> str:
    """Return a view position in capitals, empty for one that is not stored."""
    view = text.upper()
    return view if view in VIEWS else ""


def _header_band(text: str) -> str:
    """Return the band of a DICOM age (PS3.5, VR AS), which has four characters."""
    return age_band(years(text)) if _HEADER_AGE.fullmatch(text.upper()) else ""


SCAN_ATTRIBUTES: dict[str, ScanAttribute] = {
    "sex": ScanAttribute(
        key="sex",
        column="Column with the sex: F, M or O (or words).",
        from_cell=sex_code,
        meaning="Sex that the image was generated for: F, M or O.",
        tag=0x00100040,
        keyword="PatientSex",
        from_header=sex_code,
    ),
    "age_band": ScanAttribute(
        key="age",
        column="Column with the age in years (or as a DICOM age, 058Y); stored as a ten-year band.",
        from_cell=lambda text: age_band(years(text)),
        meaning="Age in years, a band of ten, that the image was generated for.",
        tag=0x00101010,
        keyword="PatientAge",
        vr="AS",
        from_header=_header_band,
    ),
    "view": ScanAttribute(
        key="view",
        column="Column with the view position, such as AP, PA, LL, RL, LATERAL.",
        from_cell=view_code,
        meaning="View that the image was generated for.",
        tag=0x00185101,
        keyword="ViewPosition",
        from_header=view_code,
    ),
}
"""Name -> attribute, in the order of their columns."""


def nothing_told() -> tuple[str, ...]:
    """Return the values of a scan without known attributes: one empty text per attribute."""
    return ("",) * len(SCAN_ATTRIBUTES)


def told(values: tuple[str, ...], name: str) -> str:
    """Return the value of one attribute from a scan's values in the order of `SCAN_ATTRIBUTES`."""
    return values[list(SCAN_ATTRIBUTES).index(name)]
