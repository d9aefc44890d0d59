"""Verifies a release from its files alone: complete, unchanged, marked as synthetic, allowed by the gate."""

from __future__ import annotations

import itertools
import re
import stat
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.artifacts.privacy_report import REPORT_NAME, read_privacy_report
from pipeline.errors import DataError, TamperedError
from pipeline.records import Policy, ReleaseRef, Verdict
from pipeline.release.formats import FORMATS, PNG
from pipeline.release.layout import (
    CARD_NAME,
    CROISSANT_NAME,
    CSV_NAME,
    IMAGE_FOLDER,
    MAX_IMAGES,
    MAX_SUMS_BYTES,
    PREVIEW_NAME,
    PROVENANCE_NAME,
    SUMS_NAME,
    TABLES,
    is_safe_name,
)
from pipeline.release.provenance import release_note
from pipeline.release.tables import read_rows
from pipeline.stage import REFERENCE_NAME, load_reference
from pipeline.storage import digest_of, read_json, sha256_file

_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
_DOCUMENTS = (
    CARD_NAME,
    CROISSANT_NAME,
    PREVIEW_NAME,
    REPORT_NAME,
    PROVENANCE_NAME,
    REFERENCE_NAME,
)
_MAX_DEPTH = 3


def verify_release(release: Path) -> ReleaseRef:
    """Check every file of a release and return its reference.

    The checks are:

    - `SHA256SUMS` names all files and no others, there are no links, and every file is unchanged;
    - the content digest is right;
    - all tables have the same schema and rows, and `synthetic` is true in each row;
    - every image is complete, has the size and marks of its row, and contains nothing else;
    - reference, report and provenance have the same verdict, which is not FAIL, is allowed by the named
      policy, and is stated on the card.

    Raises:
        DataError: not a release.
        TamperedError: a file is missing, extra, changed or malformed; the message names it.
    """
    folder = release.absolute()
    if not (folder / REFERENCE_NAME).is_file():
        raise DataError(
            "not a release", field="release", value=str(release), remedy="Pass a finished release directory."
        )
    try:
        return _verify(folder)
    except TamperedError:
        raise
    except (DataError, RecursionError, KeyError, TypeError) as error:
        raise TamperedError(
            f"a document is malformed ({error})", field="release", remedy="Release the dataset again."
        ) from error


def _verify(folder: Path) -> ReleaseRef:
    sums = _check_sums(folder)
    reference = load_reference(ReleaseRef, folder)
    stored = _stored(sums)
    images = stored[PNG]
    _check_names(sums, stored)
    content = {name: sums[name] for name in sorted([*itertools.chain(*stored.values()), *TABLES])}
    recorded = read_json(folder / REFERENCE_NAME, role="release").get("files")
    if recorded != content or digest_of(content) != reference.digest:
        raise _wrong(REFERENCE_NAME, "does not name the content of this release")
    rows = read_rows(folder, len(images))
    for name, files in stored.items():
        if sorted(FORMATS[name].names(rows)) != files:
            raise _wrong(TABLES[0], f"does not name the {name} files of this release")
        FORMATS[name].check(folder, rows)
    if reference.counts != count_rows(rows):
        raise _wrong(REFERENCE_NAME, "has counts that differ from the tables")
    _check_verdict(folder, reference, content)
    return reference


def count_rows(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Return `images` and, by class, `images:<class>`: the counts of a release's reference."""
    counts = {"images": len(rows)}
    for row in rows:
        key = f"images:{row['class']}"
        counts[key] = counts.get(key, 0) + 1
    return counts


def list_files(folder: Path) -> list[str]:
    """Return the relative names of all files below `folder`, sorted.

    Raises:
        TamperedError: something is neither a plain file nor a plain folder (a link, a device), or too deep.
    """
    found: list[str] = []
    waiting = [PurePosixPath()]
    while waiting:
        here = waiting.pop()
        for entry in (folder / here).iterdir():
            name = here / entry.name
            mode = entry.lstat().st_mode
            if stat.S_ISDIR(mode) and len(name.parts) < _MAX_DEPTH:
                waiting.append(name)
            elif stat.S_ISREG(mode):
                found.append(str(name))
            else:
                raise _wrong(str(name), "is a link, a special file, or too deep")
            if len(found) > MAX_IMAGES:
                raise _wrong(IMAGE_FOLDER, "holds too many files")
    return sorted(found)


def sums_text(sums: dict[str, str]) -> str:
    """Return `SHA256SUMS` in the layout of `sha256sum`."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


def _check_sums(folder: Path) -> dict[str, str]:
    """Check that `SHA256SUMS` and the files agree, and return {name: sha256}."""
    present = list_files(folder)
    path = folder / SUMS_NAME
    if SUMS_NAME not in present:
        raise _wrong(SUMS_NAME, "is missing")
    if path.stat().st_size > MAX_SUMS_BYTES:
        raise _wrong(SUMS_NAME, "is too large")
    sums: dict[str, str] = {}
    text = path.read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None or match[2] in sums:
            raise _wrong(SUMS_NAME, "has a malformed or repeated line")
        sums[match[2]] = match[1]
    if text != sums_text(sums):
        raise _wrong(SUMS_NAME, "is not in the order and layout of a release")
    # Only names found in the folder are ever opened, so a listed name cannot lead outside it.
    listed, there = set(sums), set(present) - {SUMS_NAME}
    for name in sorted(there - listed):
        raise _wrong(name, "is not listed in SHA256SUMS")
    for name in sorted(listed - there):
        raise _wrong(repr(name), "is listed in SHA256SUMS but missing")
    for name in sorted(sums):
        if sha256_file(folder / name) != sums[name]:
            raise _wrong(name, "differs from its line in SHA256SUMS")
    return sums


def _stored(sums: dict[str, str]) -> dict[str, list[str]]:
    """Return format -> its files, sorted, of every format that the release holds; PNG always."""
    found = {
        name: sorted(file for file in sums if file.startswith(f"{known.folder}/"))
        for name, known in FORMATS.items()
    }
    return {name: files for name, files in found.items() if files or name == PNG}


def _check_names(sums: dict[str, str], stored: dict[str, list[str]]) -> None:
    for name in itertools.chain(*stored.values()):
        if not all(map(is_safe_name, name.split("/"))):
            raise _wrong(repr(name), "is not an image of a class")
    for name in stored[PNG]:
        if name.count("/") != 2 or not name.endswith(".png"):
            raise _wrong(repr(name), "is not an image of a class")
    expected = {*itertools.chain(*stored.values()), *TABLES, *_DOCUMENTS}
    for name in sorted(set(sums) ^ expected):
        raise _wrong(repr(name), "is missing" if name in expected else "does not belong to a release")
    if not stored[PNG]:
        raise _wrong(IMAGE_FOLDER, "holds no image")


def _check_verdict(folder: Path, reference: ReleaseRef, content: dict[str, str]) -> None:
    report = read_privacy_report(folder)
    provenance = read_json(folder / PROVENANCE_NAME, role="provenance")
    if report.verdict is Verdict.FAIL or any(
        part.verdict is Verdict.FAIL for part in report.classes.values()
    ):
        raise _wrong(REPORT_NAME, "says FAIL, which is never released")
    if reference.verdict is not report.verdict or provenance["verdict"] != report.verdict.value:
        raise _wrong(REPORT_NAME, "has another verdict than reference.json or provenance.json")
    try:
        policy = Policy(provenance["policy"])
    except ValueError as error:
        raise _wrong(PROVENANCE_NAME, "names an unknown policy") from error
    note = release_note(report.verdict, policy)
    if not policy.allows(report.verdict) or {report.policy_note, provenance["policy_note"]} != {note}:
        raise _wrong(REPORT_NAME, "does not state under which policy it was released")
    digests = provenance["digests"]
    if (digests["content"], digests["inputs"]) != (reference.digest, reference.inputs_digest):
        raise _wrong(PROVENANCE_NAME, "has other digests than reference.json")
    if (digests["candidates"], digests["checkpoint"], digests["cohort"]) != (
        report.candidates_digest,
        report.checkpoint_digest,
        report.cohort_digest,
    ):
        raise _wrong(PROVENANCE_NAME, "has other digests than the privacy report")
    if tuple(digests.get("earlier_cohorts", ())) != report.earlier_cohorts:
        raise _wrong(PROVENANCE_NAME, "states other cohorts of starting checkpoints than the privacy report")
    guarantee = report.differential_privacy
    stated = None if guarantee is None else guarantee.model_dump(mode="json")
    if provenance.get("differential_privacy") != stated:
        raise _wrong(PROVENANCE_NAME, "states another guarantee than the privacy report")
    card = (folder / CARD_NAME).read_text(encoding="utf-8", errors="replace")
    promised = "" if guarantee is None else guarantee.words
    if note not in card or reference.digest not in card or promised not in card:
        raise _wrong(CARD_NAME, "does not state the gate's verdict, its guarantee or the content digest")
    described = read_json(folder / CROISSANT_NAME, role="croissant")
    listed = {part.get("@id"): part.get("sha256") for part in described["distribution"]}
    if listed.get(CSV_NAME) != content[CSV_NAME]:
        raise _wrong(CROISSANT_NAME, f"has another sha256 for {CSV_NAME}")


def _wrong(name: str, problem: str) -> TamperedError:
    return TamperedError(f"{name} {problem}", field="release", remedy="Release the dataset again.")
