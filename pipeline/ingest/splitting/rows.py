"""Assigns to every row what the listing says about its file: class, findings, published parts, digests."""

from __future__ import annotations

import re
from collections import Counter
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
    """What the listing says about the N rows of the parts; it replaces the listing's tasks.

    Attributes:
        origin: (N,) number of each row's file.
        files: digests of the names and states of the files.
        classes: class names.
        labels: (N,) class, -1 without one.
        findings: findings in addition to the class.
        published: published split -> part of each row.
        kept_test: (N,) True for rows of the published test part that is kept.
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
    """Return what the tasks say about their rows.

    Args:
        manifest: the manifest, for classes and the kept test part.
        listing: all tasks.
        origin: (N,) number of each row's task.
        pseudonyms: pseudonyms of the patients.
        tags: identifies the files.

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
    """Return (N,) the number of each row's task; fail if too many rows were refused.

    Args:
        folder: folder of the parts.
        num_parts: number of parts.
        length: files per chunk.
        limit: largest share of refused rows.

    Raises:
        DataError: more rows than that, or all, were refused.
    """
    pieces: list[Ints] = []
    reasons = Counter[str]()
    for number in range(num_parts):
        rows = read_rows(folder, number)
        pieces.append(np.array([number * length + row.scan for row in rows], dtype=np.int64))
        reasons.update(row.reason for row in rows if row.reason)
    origin = np.concatenate(pieces)
    check_refusals(reasons, len(origin), limit)
    return origin


def check_refusals(reasons: Mapping[str, int], total: int, limit: float) -> None:
    """Fail if too many scans were refused.

    Args:
        reasons: reason -> number of scans.
        total: number of all scans.
        limit: largest share of refused scans.

    Raises:
        DataError: more scans than that, or all, were refused; the message has the three main reasons.
    """
    refused = sum(reasons.values())
    if refused == total or refused > limit * total:
        ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:3]
        main = ", ".join(f"{reason} ({count})" for reason, count in ranked)
        raise DataError(
            f"{refused} of {total} scans cannot be used: {main}",
            field="sources",
            remedy="Correct the manifest or the files, or raise --set ingest.max_reject_share.",
        )


def class_names(manifest: Manifest, listing: Listing) -> tuple[str, ...]:
    """Return the class names, sorted as readers of class folders sort them; a label is a position in them.

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
                f"differs from the class {other} in case only; many file systems have one folder for both",
                field="label",
                value=name,
                remedy="Map both to one name, or to two distinct names, with the manifest's label.values.",
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
            f"no scan is in part {manifest.split.test_part!r} of this published split",
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
