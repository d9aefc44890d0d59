"""Names that stand in released tables: those that a reader would take for something else are no names.

A release's classes and findings are read from CSV by pandas, `datasets` and Arrow, whose readers guess a
column's kind from its texts: a class `None` reads back as nothing in every row, `True` as a truth value, and
a class `1` as a number, beside a label that counts from 0.
"""

from __future__ import annotations

import re

_NOTHING = {"None", "NA", "NULL", "NaN", "nan", "null", "Null"}
"""What pandas (`read_csv`), Arrow and YAML take for nothing, of the texts that are names at all."""

_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([Tt].*)?")


def name_problem(name: str) -> str:
    """Return what readers of tables take a name for, and what to do; an empty text if they take it as it is.

    Args:
        name: letters, digits, dot, hyphen and underscore, as all names are.
    """
    if name in _NOTHING:
        return f"readers of tables take {name!r} for an empty cell; name it otherwise, such as no_finding"
    if name.lower() in {"true", "false"}:
        return f"readers of tables take {name!r} for a truth value; name it by what it means"
    if _is_number(name):
        return f"readers of tables take {name!r} for a number; put a word before it, such as grade_{name}"
    if _DATE.fullmatch(name):
        return f"readers of tables take {name!r} for a date; put a word before it"
    return ""


def table_name(name: str) -> str:
    """Return a name that may stand in released tables.

    Raises:
        ValueError: readers would take it for something else.
    """
    problem = name_problem(name)
    if problem:
        raise ValueError(problem)
    return name


def _is_number(text: str) -> bool:
    for read in (float, lambda digits: int(digits, 0)):
        try:
            read(text)
        except ValueError:
            continue
        return True
    return False
