"""What the listing says of every row: class, findings, published parts, and the numbers of its file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.arrays import Bools, Codes, Ints
from pipeline.errors import DataError
from pipeline.identity import Pseudonyms
from pipeline.ingest.reading.parts import read_rows
from pipeline.ingest.reading.read_cache import FileNumbers, ReadTags, number_files
from pipeline.ingest.splitting.findings import Findings, findings_of
from pipeline.manifest import Manifest
from pipeline.manifest.rules import NAME_PATTERN
from pipeline.manifest.table_names import name_problem
from pipeline.sources.folders import Listing


@dataclass(frozen=True)
class ScanRows:
    """One entry a row of the parts; with this, the listing's tasks are no longer needed.

    Attributes:
        origin: (N,) number of the file that the row came from.
        files: names and states of the files as numbers.
        classes: class names.
        labels: (N,) class, -1 without one.
        findings: findings beside the class.
        published: part of each row, by published split.
        kept_test: (N,) True in the published test part that is kept.
        claims: row -> pseudonym of the patient that a table merely claims.
    """

    origin: Codes
    files: FileNumbers
    classes: tuple[str, ...]
    labels: Codes
    findings: Findings
    published: dict[str, list[str]]
    kept_test: Bools
    claims: dict[int, str]


def describe_rows(
    manifest: Manifest, listing: Listing, origin: Codes, pseudonyms: Pseudonyms, tags: ReadTags
) -> ScanRows:
    """Bring what the tasks say to the rows that came of them.

    Args:
        manifest: the manifest, for classes and the kept test part.
        listing: all tasks.
        origin: (N,) number of the task that each row came from.
        pseudonyms: names the patients.
        tags: names the files.

    Raises:
        DataError: no scan has a label, a class name is not usable, or the kept test part is empty.
    """
    classes = class_names(manifest, listing)
    codes = {name: code for code, name in enumerate(classes)}
    labels = np.array([codes.get(task.label, -1) for task in listing.tasks], dtype=np.int64)
    published = {
        name: [listing.tasks[number].published[place] for number in origin]
        for place, name in enumerate(listing.published)
    }
    return ScanRows(
        origin=origin,
        files=number_files(listing.tasks, tags),
        classes=classes,
        labels=labels[origin],
        findings=findings_of(listing.findings, listing.tasks, origin),
        published=published,
        kept_test=_kept_test(manifest, published, len(origin)),
        claims=_claims(listing, origin, pseudonyms),
    )


def task_of_rows(folder: Path, num_parts: int, length: int, limit: float) -> Codes:
    """Return the number of the task that each row came from, and stop where too many were refused.

    Args:
        folder: where the parts lie.
        num_parts: their number.
        length: scans a chunk.
        limit: largest share of refused rows.

    Raises:
        DataError: more rows than that, or all, were refused.
    """
    pieces: list[Ints] = []
    reasons: dict[str, int] = {}
    for number in range(num_parts):
        rows = read_rows(folder, number)
        pieces.append(np.array([number * length + row.scan for row in rows], dtype=np.int64))
        for row in rows:
            if row.reason:
                reasons[row.reason] = reasons.get(row.reason, 0) + 1
    origin = np.concatenate(pieces)
    check_refusals(reasons, len(origin), limit)
    return origin


def check_refusals(reasons: Mapping[str, int], total: int, limit: float) -> None:
    """Stop where too many scans were refused.

    Args:
        reasons: reason -> scans.
        total: all scans.
        limit: largest share of refused ones.

    Raises:
        DataError: more than that, or all, were refused.
    """
    refused = sum(reasons.values())
    if refused == total or refused > limit * total:
        ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:3]
        told = ", ".join(f"{reason} ({count})" for reason, count in ranked)
        raise DataError(
            f"{refused} of {total} scans cannot be used: {told}",
            field="sources",
            remedy="Correct the manifest or the files, or raise --set ingest.max_reject_share.",
        )


def class_names(manifest: Manifest, listing: Listing) -> tuple[str, ...]:
    """Return the class names, sorted as readers of class folders sort them: a label is a position here.

    Raises:
        DataError: no scan has a label, two classes differ in case only, or a folder, cell or file name is not
            usable as a class name.
    """
    found = tuple(sorted(manifest.classes or {task.label for task in listing.tasks if task.label}))
    folders: dict[str, str] = {}
    for name in found:
        other = folders.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(
                f"differs from the class {other} in case only, and on many machines their folders are one",
                field="label",
                value=name,
                remedy="Map both to one name, or to two, with the manifest's label.values.",
            )
        problem = "not usable as a class name (letters, digits, dot, hyphen, underscore)"
        if re.fullmatch(NAME_PATTERN, name):
            problem = name_problem(name)
        if problem:
            raise DataError(
                problem,
                field="label",
                value=name,
                remedy="Map it to a name with the manifest's label.values.",
            )
    if not found:
        raise DataError("no scan has a label", field="label", remedy="Correct the manifest's label rule.")
    return found


def _kept_test(manifest: Manifest, published: dict[str, list[str]], count: int) -> Bools:
    if manifest.split.keep_test is None:
        return np.zeros(count, dtype=bool)
    parts = published[manifest.split.keep_test]
    kept = np.array([part == manifest.split.test_part for part in parts], dtype=bool)
    if not kept.any():
        raise DataError(
            f"no scan stands in part {manifest.split.test_part!r} of it",
            field="split.keep_test",
            value=manifest.split.keep_test,
            remedy="Correct split.test_part in the manifest.",
        )
    return kept


def _claims(listing: Listing, origin: Codes, pseudonyms: Pseudonyms) -> dict[int, str]:
    claimed = {number: task.claimed for number, task in enumerate(listing.tasks) if task.claimed}
    if not claimed:
        return {}
    return {
        row: pseudonyms.patient(claimed[number])
        for row, number in enumerate(origin.tolist())
        if number in claimed
    }
