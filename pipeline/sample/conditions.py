"""Conditions of the candidates besides the class: as given, otherwise with their frequencies in training."""

from __future__ import annotations

import json
import logging
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

from pipeline.artifacts.conditions import ABSENT, FINDINGS, PRESENT, ConditionField
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.artifacts.checkpoint import CheckpointInfo
    from pipeline.sample.draw import Candidate
    from pipeline.sample.settings import SampleSettings

logger = logging.getLogger(__name__)

_FIELD = "sample.given"


class AskedConditions:
    """Converts `sample.given` and `sample.others` to condition codes.

    Args:
        info: description of the checkpoint, with its condition fields and their joint frequencies.
        settings: sample settings.

    Raises:
        UsageError: the checkpoint was not trained on a given name or value.
    """

    def __init__(self, info: CheckpointInfo, settings: SampleSettings) -> None:
        self._classes, self._fields = info.classes, info.conditions
        self._given = _given_codes(info.conditions, settings.given)
        self._nulls = tuple(field.null_code for field in info.conditions)
        self._tables: dict[int, tuple[list[tuple[int, ...]], list[int]]] = (
            {label: self._table(info, label) for label in range(len(info.classes))}
            if settings.others == "as_trained"
            else {}
        )

    def choose_labels(self, labels: list[int], *, named: bool) -> list[int]:
        """Return the classes that the given conditions do not contradict (`mass: absent` contradicts `mass`).

        Args:
            labels: class indices.
            named: whether the user named these classes. Then a contradiction is an error; otherwise the class
                is skipped.

        Raises:
            UsageError: a named class is contradicted, or every class is.
        """
        wrong = [label for label in labels if self._contradicts(label)]
        if wrong and (named or len(wrong) == len(labels)):
            agreeing = [name for label, name in enumerate(self._classes) if not self._contradicts(label)]
            raise UsageError(
                f"contradicts the class {self._classes[wrong[0]]}",
                field=_FIELD,
                remedy=f"Sample a class that agrees with it: {agreeing}." if agreeing else "Change it.",
            )
        if wrong:
            told = ", ".join(self._classes[label] for label in wrong)
            logger.info("skipping classes that sample.given contradicts: %s", told)
        return [label for label in labels if label not in wrong]

    def fill(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates with their condition codes, which depend on each candidate's own seed."""
        if not self._fields:
            return list(candidates)
        return [replace(candidate, codes=self._codes(candidate)) for candidate in candidates]

    def text(self, candidate: Candidate) -> str:
        """Return the conditions of a candidate, in the format of the table's `condition` column."""
        told: dict[str, str | None] = {}
        findings: dict[str, int | None] = {}
        for field, code in zip(self._fields, candidate.codes, strict=True):
            if field.is_finding:
                findings[field.name] = None if code == field.null_code else code
            else:
                told[field.name] = None if code == field.null_code else field.values[code]
        body = {**told, **({FINDINGS: findings} if findings else {})}
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False)

    def _codes(self, candidate: Candidate) -> tuple[int, ...]:
        codes = list(self._nulls)
        rows, ends = self._tables.get(candidate.label, ([], []))
        if rows:
            # This imports torch, which is not needed to refuse wrong settings.
            from models.noise import stream_seed

            # Integer arithmetic: the same choice on every machine.
            pick = stream_seed(candidate.seed, "condition") % ends[-1]
            codes = list(rows[bisect_right(ends, pick)])
        for place, code in self._given.items():
            codes[place] = code
        return tuple(codes)

    def _table(self, info: CheckpointInfo, label: int) -> tuple[list[tuple[int, ...]], list[int]]:
        """Return the combinations of a class to sample from, and their cumulative counts.

        If no combination has all given conditions, all combinations of the class are used, and the given
        conditions replace theirs. Combinations that do not occur in training can thus be requested.
        """
        of_class = [row for row in info.combinations if row.label == label]
        chosen = [
            row for row in of_class if all(row.codes[place] == code for place, code in self._given.items())
        ]
        if of_class and not chosen:
            logger.info(
                "%s: the given conditions do not occur together in training; the others are as in the class",
                info.classes[label],
            )
        chosen = chosen or of_class
        return [row.codes for row in chosen], list(accumulate(row.scans for row in chosen))

    def _contradicts(self, label: int) -> bool:
        """Return whether the class's own finding is absent, or a finding is present in the class of none."""
        states = {
            self._fields[place].name: self._fields[place].values[code]
            for place, code in self._given.items()
            if self._fields[place].is_finding
        }
        name = self._classes[label]
        if any(field.is_finding and field.name == name for field in self._fields):
            return states.get(name) == ABSENT
        return any(state == PRESENT and finding in self._classes for finding, state in states.items())


def _given_codes(
    fields: Sequence[ConditionField], given: Mapping[str, str | tuple[str, ...]]
) -> dict[int, int]:
    """Return index of the field -> code of the given conditions."""
    known = {field.name: place for place, field in enumerate(fields)}
    findings = [field.name for field in fields if field.is_finding]
    if given and not fields:
        raise UsageError(
            "the checkpoint was trained on classes alone",
            field=_FIELD,
            value=sorted(given),
            remedy="Remove it, or train with train.conditions.",
        )
    codes: dict[int, int] = {}
    if FINDINGS in given and findings:
        wanted = given[FINDINGS]
        wanted = (wanted,) if isinstance(wanted, str) else wanted
        unknown = [name for name in wanted if name not in findings]
        if unknown:
            raise _unknown("finding", f"{_FIELD}.{FINDINGS}", unknown[0], findings)
        # This sets all findings: the listed ones are present and all others absent.
        codes |= {known[name]: int(name in wanted) for name in findings}
    for name, value in given.items():
        if name == FINDINGS and findings:
            continue
        if name not in known:
            raise _unknown("condition", _FIELD, name, [*known, *([FINDINGS] if findings else [])])
        values = fields[known[name]].values
        if not isinstance(value, str) or value not in values:
            raise _unknown("value", f"{_FIELD}.{name}", value, list(values))
        code = values.index(value)
        if codes.get(known[name], code) != code:
            raise UsageError(
                f"contradicts {_FIELD}.{FINDINGS}",
                field=f"{_FIELD}.{name}",
                value=value,
                remedy="Give it once.",
            )
        codes[known[name]] = code
    return codes


def _unknown(kind: str, field: str, value: object, choices: list[str]) -> UsageError:
    return UsageError(
        f"the checkpoint knows no such {kind}",
        field=field,
        value=value,
        remedy=f"Choose from {choices}.",
    )
