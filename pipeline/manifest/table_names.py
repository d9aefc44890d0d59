"""Check of names in released tables: table readers must not read them as another type.

pandas, `datasets` and Arrow read a release's classes and findings from CSV and infer the type of a column
from its cells: they read a class `None` as missing, `True` as a Boolean and `1` as a number, which differs
from the label index.
"""

from __future__ import annotations

import re

_MISSING = {"None", "NA", "NULL", "NaN", "nan", "null", "Null"}
"""Valid names that pandas (`read_csv`), Arrow or YAML read as a missing value."""

_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([Tt].*)?")


def name_problem(name: str) -> str:
    """Return as what table readers misread a name, with a remedy; an empty text if they read it correctly.

    Args:
        name: a name of letters, digits, dots, hyphens and underscores.
    """
    if name in _MISSING:
        return f"table readers read {name!r} as an empty cell; use another name, such as no_finding"
    if name.lower() in {"true", "false"}:
        return f"table readers read {name!r} as a Boolean; use a name that says what it means"
    if _is_number(name):
        return f"table readers read {name!r} as a number; add a prefix, such as grade_{name}"
    if _DATE.fullmatch(name):
        return f"table readers read {name!r} as a date; add a prefix"
    return ""


def table_name(name: str) -> str:
    """Return a name unchanged if it is allowed in released tables.

    Raises:
        ValueError: table readers would read it as another type.
    """
    if problem := name_problem(name):
        raise ValueError(problem)
    return name


def _is_number(text: str) -> bool:
    for convert in (float, lambda digits: int(digits, 0)):
        try:
            convert(text)
        except ValueError:
            continue
        return True
    return False
