"""Dates of a source, and the formats in which they may be written elsewhere."""

from __future__ import annotations

import datetime as dt
import re

_DATE = re.compile(r"(\d{4})[.:/-]?(\d{2})[.:/-]?(\d{2})(?:$|[ T]|\d{4})")
_YEARS = range(1901, 2100)


def find_date(text: str) -> str:
    """Return the day (YYYYMMDD) at the start of a DICOM DA or DT, ISO or EXIF date, or "".

    Placeholders are not dates: days that do not exist, and years before 1901 (19000101 is used for unknown).
    """
    found = _DATE.match(text.strip())
    if found is None:
        return ""
    try:
        day = dt.date(*(int(part) for part in found.groups()))
    except ValueError:
        return ""
    return day.strftime("%Y%m%d") if day.year in _YEARS else ""


def date_spellings(day: str) -> tuple[str, ...]:
    """Return a day (YYYYMMDD) in DICOM, ISO 8601, EXIF, and German, British and American formats.

    Any other text is returned alone and unchanged.
    """
    if len(day) != 8 or not day.isdigit():
        return (day,)
    y, m, d = day[:4], day[4:6], day[6:]
    plain = (day, f"{y}-{m}-{d}", f"{y}.{m}.{d}", f"{y}/{m}/{d}", f"{y}:{m}:{d}", f"{y}_{m}_{d}")
    turned = (f"{d}.{m}.{y}", f"{d}/{m}/{y}", f"{m}/{d}/{y}", f"{d}-{m}-{y}", f"{m}-{d}-{y}")
    short = (f"{int(d)}.{int(m)}.{y}", f"{int(m)}/{int(d)}/{y}", f"{int(d)}/{int(m)}/{y}")
    return tuple(dict.fromkeys((*plain, *turned, *short)))
