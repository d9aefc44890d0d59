"""Verify a release from its files alone: complete, unchanged, marked as synthetic, allowed by the gate."""

from __future__ import annotations

import re
import stat
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.artifacts.pixels import MAX_VALUE
from pipeline.artifacts.privacy_report import REPORT_NAME, read_privacy_report
from pipeline.errors import DataError, TamperedError
from pipeline.records import Policy, ReleaseRef, Verdict
from pipeline.release.images import check_png
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

    Checked are: `SHA256SUMS` names every file and no other, no links, every file unchanged; the content
    digest; one schema and the same rows in all tables, `synthetic` true in each; every image whole, of its
    row's size and marks, and free of anything else; one verdict in reference, report and provenance, never
    FAIL, allowed by the policy that is named, and said on the card.

    Raises:
        DataError: not a release.
        TamperedError: a file is missing, extra, changed or malformed; the message names it.
    """
    folder = release.absolute()
    if not (folder / REFERENCE_NAME).is_file():
        raise DataError(
            "not a release", field="release", value=str(release), remedy="Name a finished release directory."
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
    images = sorted(name for name in sums if name.startswith(f"{IMAGE_FOLDER}/"))
    _check_names(sums, images)
    content = {name: sums[name] for name in sorted([*images, *TABLES])}
    recorded = read_json(folder / REFERENCE_NAME, role="release").get("files")
    if recorded != content or digest_of(content) != reference.digest:
        raise _wrong(REFERENCE_NAME, "does not name the content of this release")
    rows = read_rows(folder, len(images))
    if sorted(row["file_name"] for row in rows) != images:
        raise _wrong(TABLES[0], "does not name the images of this release")
    depths = {check_png(folder / row["file_name"], row["file_name"], row) for row in rows}
    if len(depths) != 1 or not depths <= set(MAX_VALUE):
        raise _wrong(IMAGE_FOLDER, "holds images of different bit depths")
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
    """Return {name: sha256} once `SHA256SUMS` and the files agree."""
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


def _check_names(sums: dict[str, str], images: list[str]) -> None:
    for name in images:
        parts = name.split("/")
        if len(parts) != 3 or not all(map(is_safe_name, parts)) or not name.endswith(".png"):
            raise _wrong(repr(name), "is not an image of a class")
    expected = {*images, *TABLES, *_DOCUMENTS}
    for name in sorted(set(sums) ^ expected):
        raise _wrong(repr(name), "is missing" if name in expected else "does not belong to a release")
    if not images:
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
        raise _wrong(REPORT_NAME, "does not say under which policy it was released")
    digests = provenance["digests"]
    if (digests["content"], digests["inputs"]) != (reference.digest, reference.inputs_digest):
        raise _wrong(PROVENANCE_NAME, "has other digests than reference.json")
    if (digests["candidates"], digests["checkpoint"], digests["cohort"]) != (
        report.candidates_digest,
        report.checkpoint_digest,
        report.cohort_digest,
    ):
        raise _wrong(PROVENANCE_NAME, "has other digests than the privacy report")
    guarantee = report.differential_privacy
    stated = None if guarantee is None else guarantee.model_dump(mode="json")
    if provenance.get("differential_privacy") != stated:
        raise _wrong(PROVENANCE_NAME, "states another guarantee than the privacy report")
    card = (folder / CARD_NAME).read_text(encoding="utf-8", errors="replace")
    promised = "" if guarantee is None else guarantee.words
    if note not in card or reference.digest not in card or promised not in card:
        raise _wrong(CARD_NAME, "does not say the gate's verdict, its guarantee or the content digest")
    described = read_json(folder / CROISSANT_NAME, role="croissant")
    listed = {part.get("@id"): part.get("sha256") for part in described["distribution"]}
    if listed.get(CSV_NAME) != content[CSV_NAME]:
        raise _wrong(CROISSANT_NAME, f"has another sha256 for {CSV_NAME}")


def _wrong(name: str, problem: str) -> TamperedError:
    return TamperedError(f"{name} {problem}", field="release", remedy="Release the dataset again.")
