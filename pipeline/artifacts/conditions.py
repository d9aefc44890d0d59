"""Conditions of an image besides its class: attributes and findings of a cohort, as codes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from pipeline.artifacts.cohort import ATTRIBUTES, UNKNOWN, Cohort
from pipeline.errors import DataError

logger = logging.getLogger(__name__)

FINDINGS = "findings"
CONDITION_NAMES = (*ATTRIBUTES, FINDINGS)
if TYPE_CHECKING:
    ConditionName = str
else:
    ConditionName = Literal[CONDITION_NAMES]
"""Allowed values of `train.conditions`; `findings` means one field per finding."""

ABSENT, PRESENT = "absent", "present"
FINDING_VALUES = (ABSENT, PRESENT)
MAX_VALUES = 64
MAX_FIELDS = 256

RESERVED_NAMES = frozenset({
    "sample_id", "file_name", "class", "label", "synthetic", "seed", "checkpoint_digest", "sampler",
    "num_steps", "guidance_scale", "width", "height", "format_version", "image", "index", FINDINGS,
    *ATTRIBUTES,
})  # fmt: skip
"""Names that a finding must not have, because they are columns of the tables with one column per finding."""


class ConditionField(BaseModel):
    """One condition field of a checkpoint.

    Attributes:
        name: an attribute (one of `ATTRIBUTES`) or a finding.
        values: possible values, in the order of the codes; the code after the last one means "not given".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    values: tuple[str, ...] = Field(min_length=2, max_length=MAX_VALUES)

    @property
    def is_finding(self) -> bool:
        """Whether the field is a finding, with the values absent and present."""
        return self.name not in ATTRIBUTES

    @property
    def null_code(self) -> int:
        """The code that means "not given"."""
        return len(self.values)


def asked_conditions(fields: tuple[ConditionField, ...]) -> tuple[ConditionName, ...]:
    """Return the requested conditions that these fields result from."""
    names = {FINDINGS if field.is_finding else field.name for field in fields}
    return tuple(name for name in CONDITION_NAMES if name in names)


class CohortConditions:
    """Condition fields of a cohort, and the codes of its scans.

    A field has the values that occur in the train split, sorted. Any other value, a missing value and an
    uncertain finding have the null code. A field with a single value in the train split gives the network no
    information; it is left out, which is logged. Only npy files and `cohort.json` are read.

    Args:
        cohort: the cohort.
        asked: requested conditions besides the class.

    Raises:
        DataError: the cohort does not have the requested conditions, none of them varies, or a field has too
            many values.
    """

    def __init__(self, cohort: Cohort, asked: tuple[ConditionName, ...] = ()) -> None:
        self._cohort = cohort
        self.fields: tuple[ConditionField, ...] = ()
        self.left_out: tuple[str, ...] = ()
        # Each field reads one column of one file through a table of 256 codes.
        self._columns: list[tuple[Literal["attributes", "findings"], int]] = []
        self._tables: list[npt.NDArray[np.int16]] = []
        if not asked:
            return
        train = cohort.rows("train")
        for name in CONDITION_NAMES:
            if name not in asked:
                continue
            if name == FINDINGS:
                self._add_findings(train)
            else:
                self._add_attribute(name, train)
        if self.left_out:
            logger.warning(
                "not conditioned on, as it never varies in the train split: %s", ", ".join(self.left_out)
            )
        if not self.fields or len(self.fields) > MAX_FIELDS:
            raise DataError(
                f"{len(self.fields)} fields vary in the train split, 1 to {MAX_FIELDS} can be conditioned on",
                field="train.conditions",
                value=list(asked),
                remedy="Change train.conditions, or the findings in the manifest.",
            )

    @property
    def num_values(self) -> tuple[int, ...]:
        """The number of values of each field, without the class."""
        return tuple(len(field.values) for field in self.fields)

    def codes(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Return the condition codes of `rows`: (n, 1 + F) int64, the class first."""
        codes = np.empty((len(rows), 1 + len(self.fields)), dtype=np.int64)
        codes[:, 0] = self._cohort.labels[rows]
        read: dict[str, npt.NDArray[np.uint8]] = {}
        for place, ((source, column), table) in enumerate(zip(self._columns, self._tables, strict=True)):
            if source not in read:
                stored = self._cohort.attributes() if source == "attributes" else self._cohort.findings()
                read[source] = np.asarray(stored[rows])
            codes[:, place + 1] = table[read[source][:, column]]
        return codes

    def _add_attribute(self, name: str, train: npt.NDArray[np.int64]) -> None:
        known = self._cohort.info.attributes.get(name, ())
        column = self._cohort.attribute_names.index(name) if known else 0
        stored = self._cohort.attributes()[train, column] if known else np.empty(0, np.uint8)
        present = [int(code) for code in np.unique(stored) if code < len(known)]
        if not present:
            raise DataError(
                "no train scan has this attribute",
                field="train.conditions",
                value=name,
                remedy="Take it out; or ingest again, if the cohort was made before attributes were kept for "
                "training.",
            )
        if len(present) > MAX_VALUES:
            raise DataError(
                f"has {len(present)} values in the train split, at most {MAX_VALUES} can be learnt",
                field="train.conditions",
                value=name,
                remedy="Take it out.",
            )
        values = sorted(known[code] for code in present)
        table = np.full(UNKNOWN + 1, len(values), dtype=np.int16)
        for code in present:
            table[code] = values.index(known[code])
        self._add(name, tuple(values), ("attributes", column), table)

    def _add_findings(self, train: npt.NDArray[np.int64]) -> None:
        names = self._cohort.info.findings
        if not names:
            raise DataError(
                "the scans have no findings, only classes",
                field="train.conditions",
                value=FINDINGS,
                remedy="Take it out, or give the manifest's label rule several findings a scan.",
            )
        states = self._cohort.findings()[train]
        table = np.full(UNKNOWN + 1, len(FINDING_VALUES), dtype=np.int16)
        table[:2] = (0, 1)
        for column, name in enumerate(names):
            if name in RESERVED_NAMES:
                raise DataError(
                    "a finding cannot have this name, which is a column of a release's tables",
                    field=FINDINGS,
                    value=name,
                    remedy="Rename the finding in the manifest, and ingest again.",
                )
            varies = bool((states[:, column] == 0).any() and (states[:, column] == 1).any())
            self._add(name, FINDING_VALUES if varies else (), ("findings", column), table)

    def _add(
        self,
        name: str,
        values: tuple[str, ...],
        column: tuple[Literal["attributes", "findings"], int],
        table: npt.NDArray[np.int16],
    ) -> None:
        if len(values) < 2:
            self.left_out = (*self.left_out, name)
            return
        self.fields = (*self.fields, ConditionField(name=name, values=values))
        self._columns.append(column)
        self._tables.append(table)


def in_order(asked: tuple[str, ...]) -> tuple[ConditionName, ...]:
    """Return each requested condition once, in the order of `CONDITION_NAMES`."""
    return tuple(name for name in CONDITION_NAMES if name in asked)
