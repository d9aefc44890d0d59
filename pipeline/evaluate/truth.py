"""What classifiers are asked about a scan: its class, or which of several findings are present."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.arrays import Bools, Floats, Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.findings import real_findings
from pipeline.evaluate.subgroups import masks

MIN_PATIENTS = 2

Targets = Ints | Floats
"""(n,) class of each scan, or (n, K) findings: 1 present, 0 absent, NaN unknown."""


@dataclass(frozen=True)
class Part:
    """What an AUC of a part is measured on.

    Attributes:
        scans: (n,) whether each scan belongs to it.
        columns: columns of the findings that count; empty for all classes.
    """

    scans: Bools
    columns: tuple[int, ...] = ()


@dataclass(frozen=True)
class Truth:
    """Labels and patients of the real scans of one split.

    Attributes:
        labels: what is true of each scan, in row order.
        patients: (n,) patient of each scan, as a number.
        groups: subgroup in words -> whether each scan (n,) is in it.
    """

    labels: Targets
    patients: Ints
    groups: Mapping[str, Bools] = field(default_factory=dict)

    def lacking(self, names: Sequence[str]) -> list[str]:
        """Return the classes or findings with too few patients to be measured on this split.

        A finding needs patients with and without it.
        """
        if self.labels.ndim == 1:
            return [name for label, name in enumerate(names) if self._few(self.labels == label)]
        return [
            name
            for column, name in enumerate(names)
            if any(self._few(self.labels[:, column] == state) for state in (0, 1))
        ]

    def measurable_groups(self, names: Sequence[str]) -> dict[str, Part]:
        """Return the subgroups in which every class, or some finding, can be measured."""
        found = {}
        for group, chosen in self.groups.items():
            lacking = Truth(self.labels[chosen], self.patients[chosen]).lacking(names)
            if self.labels.ndim == 2 and len(lacking) < len(names):
                kept = tuple(column for column, name in enumerate(names) if name not in lacking)
                found[group] = Part(chosen, kept)
            elif not lacking:
                found[group] = Part(chosen)
        return found

    def finding(self, column: int) -> Part:
        """Return the scans of which a finding is known."""
        return Part(~np.isnan(self.labels[:, column]), (column,))

    def _few(self, chosen: Bools) -> bool:
        return len(np.unique(self.patients[chosen])) < MIN_PATIENTS


@dataclass(frozen=True)
class Question:
    """What classifiers are asked.

    Attributes:
        names: classes, one of which is true; or findings, any number of which may be present.
        columns: columns of the findings in the cohort's table; empty if classes are asked.
        notes: notes for the report.
    """

    names: tuple[str, ...]
    columns: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, cohort: Cohort) -> Question:
        """Return the question of a cohort: its findings if its scans have several, else its classes.

        Findings of which train, val or test has too few patients are left out.
        """
        findings = cohort.info.findings
        if not findings:
            return cls(cohort.info.classes)
        patients = patient_numbers(cohort)
        lacking: dict[str, None] = {}
        for split in ("train", "val", "test"):
            rows = cohort.rows(split)
            lacking |= dict.fromkeys(Truth(real_findings(cohort, rows), patients[rows]).lacking(findings))
        kept = tuple(column for column, name in enumerate(findings) if name not in lacking)
        notes = [
            f"{name} is left out: a split has fewer than {MIN_PATIENTS} patients with or without it"
            for name in lacking
        ]
        if not kept:
            return cls(cohort.info.classes, notes=(*notes, "no finding is left: the classes are measured"))
        return cls(tuple(findings[column] for column in kept), kept, tuple(notes))

    def truth(self, cohort: Cohort, split: str, patients: Ints) -> Truth:
        """Return what is true of the scans of a split; `patients` is the result of `patient_numbers`."""
        rows = cohort.rows(split)
        return Truth(self.of_scans(cohort, rows), patients[rows], masks(cohort, rows))

    def of_scans(self, cohort: Cohort, rows: Ints) -> Targets:
        """Return what is true of real scans."""
        labels = np.asarray(cohort.labels)[rows].astype(np.int64)
        return self.of_images(labels, real_findings(cohort, rows) if self.columns else None)

    def of_images(self, labels: Ints, findings: Floats | None) -> Targets:
        """Return what is true of images with these classes (n,) and findings of the cohort (n, all)."""
        if not self.columns:
            return labels
        assert findings is not None
        return findings[:, list(self.columns)]


def patient_numbers(cohort: Cohort) -> Ints:
    """Return a number for each row's patient; a row without a known patient is its own patient."""
    names = cohort.records()["patient_id"].fillna("").astype(str).tolist()
    known = cohort.info.has_patient_ids
    keys = [name if known and name else f"row {row}" for row, name in enumerate(names)]
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)
