"""All checks before a release: files unchanged and consistent, and a verdict that the policy allows."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.artifacts.candidates import TABLE_NAME, Candidates, count_from_scans, sample_id, written_columns
from pipeline.artifacts.pixels import StoredPixels
from pipeline.artifacts.privacy_report import REPORT_NAME, PrivacyReport, read_privacy_report
from pipeline.errors import DataError, GateRefusedError, TamperedError
from pipeline.records import AuditRef, CandidatesRef, Policy, Verdict
from pipeline.release.conditions import ConditionColumns, read_conditions
from pipeline.release.layout import MAX_SIDE, is_safe_name, numbered_by_name
from pipeline.stage import REFERENCE_NAME, folder_of, verify_reference
from pipeline.storage import read_json
from pipeline.wording.privacy_advice import what_to_change

if TYPE_CHECKING:
    import pandas as pd

_SEVERITY = (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL)
_PSEUDONYM = re.compile(r"\b[sp]-[0-9a-f]{16}\b")
_DIGEST = re.compile(r"[0-9a-f]{64}|")
_AGAIN = "Run the audit again; nothing was released."


@dataclass(frozen=True)
class Admission:
    """What may be released.

    Attributes:
        candidates: the opened candidates.
        audit: reference of the audit.
        report: aggregates of the audit.
        table: accepted rows of the candidate table, ordered by label and index; `row` is the pixel row.
        record_ids: ids of real scans in the private audit table; none may appear in the release.
    """

    candidates: Candidates
    audit: AuditRef
    report: PrivacyReport
    table: pd.DataFrame
    record_ids: tuple[str, ...]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.candidates.shards.image_shape[1:]

    @property
    def bit_depth(self) -> int:
        """8 or 16."""
        return self.candidates.shards.dtype.itemsize * 8

    @property
    def classes(self) -> dict[str, int]:
        """Class name -> label, for the classes with an image in the release, sorted by label."""
        pairs = self.table[["class", "label"]].drop_duplicates()
        return {str(name): int(label) for name, label in pairs.itertuples(index=False)}

    @property
    def conditions(self) -> ConditionColumns:
        """Columns of the conditions that were requested besides the class."""
        return read_conditions(self.table)[0]

    def pixels(self, rows: np.ndarray) -> StoredPixels:
        """Return stored pixels of rows of the candidates, (n, 1, H, W)."""
        return self.candidates.take(rows)


def admit(candidates: Path | CandidatesRef, audit: Path | AuditRef, policy: Policy) -> Admission:
    """Check candidates and audit against their recorded digests and against each other.

    Raises:
        DataError: the candidates were not made by `sample`, or hold names that are unsafe in a release.
        TamperedError: a file was changed, or the audit is not of these candidates.
        GateRefusedError: the verdict is FAIL or not allowed by the policy, or a candidate is an edit of a
            real scan.
    """
    drawn, audited = folder_of(candidates), folder_of(audit)
    if drawn.is_dir() and not (drawn / REFERENCE_NAME).exists():
        raise DataError(
            "not a candidate set of this pipeline; other sets can be audited, but not released",
            field="candidates",
            value=str(drawn),
            remedy="Pass a finished output directory of `phosphor sample`.",
        )
    verify_reference(CandidatesRef, candidates)
    opened = Candidates(drawn)
    pixel_files = {path.name for path in drawn.glob("pixels-*.npy")}
    _require_recorded(drawn, {TABLE_NAME, *pixel_files}, role="candidates")
    _refuse_edited_scans(opened)
    reference = verify_reference(AuditRef, audit)
    _require_recorded(audited, {REPORT_NAME, TABLE_NAME}, role="audit")
    report = read_privacy_report(audited)
    _check_verdict(reference, report)
    if report.candidates_digest != opened.digest:
        raise TamperedError(
            "this is an audit of other candidates", field="audit", remedy="Audit these candidates first."
        )
    _check_safe(opened)
    accepted, record_ids = _accepted_rows(opened, audited / TABLE_NAME, report)
    text = json.dumps(report.model_dump(mode="json"))
    if _PSEUDONYM.search(text):
        raise TamperedError("the report names a record", field=REPORT_NAME, remedy=_AGAIN)
    _check_policy(report, policy)
    if accepted.empty:
        raise GateRefusedError(
            "the gate accepted no candidate", field="audit", remedy="Sample more; see the audit's report."
        )
    return Admission(opened, reference, report, accepted, record_ids)


def _require_recorded(folder: Path, names: set[str], *, role: str) -> None:
    """Check that the reference has a digest of every file that the release reads."""
    files = read_json(folder / REFERENCE_NAME, role=role).get("files", {})
    missing = sorted(names - set(files))
    if missing:
        raise TamperedError(
            f"{missing[0]} is not among the files recorded when this output was made",
            field=role,
            remedy="Make this output again; nothing was written.",
        )


def _refuse_edited_scans(candidates: Candidates) -> None:
    """Refuse edits of real scans under every verdict and policy: a release contains no real pixel."""
    from_scans = count_from_scans(candidates.table)
    if from_scans:
        raise GateRefusedError(
            f"{from_scans} of {len(candidates)} candidates are edits of real scans: they contain real pixels "
            "or derive from one patient",
            field="candidates",
            remedy="Use them for private analysis: they are never released under any policy; "
            "edits of synthetic candidates can be.",
        )


def _check_verdict(reference: AuditRef, report: PrivacyReport) -> None:
    by_class = [part.verdict for part in report.classes.values()]
    worst = max(by_class, key=_SEVERITY.index, default=Verdict.FAIL)
    if reference.verdict is not report.verdict:
        raise TamperedError("the verdict differs from reference.json", field=REPORT_NAME, remedy=_AGAIN)
    if _SEVERITY.index(report.verdict) < _SEVERITY.index(worst):
        raise TamperedError("the verdict is milder than its worst class", field=REPORT_NAME, remedy=_AGAIN)
    if report.verdict is not Verdict.FAIL and any(test.passed is False for test in report.tests):
        raise TamperedError("a test failed, but the verdict is not FAIL", field=REPORT_NAME, remedy=_AGAIN)
    if report.verdict is not Verdict.FAIL and any(part.short for part in report.classes.values()):
        raise TamperedError("a class is short, but the verdict is not FAIL", field=REPORT_NAME, remedy=_AGAIN)
    if report.verdict is Verdict.PASS and not report.has_patient_ids:
        raise TamperedError("PASS without patient ids is impossible", field=REPORT_NAME, remedy=_AGAIN)


def _check_policy(report: PrivacyReport, policy: Policy) -> None:
    if policy.allows(report.verdict):
        return
    reasons = "; ".join(report.reasons) or "see the audit's report"
    never = ["FAIL is never released."] if report.verdict is Verdict.FAIL else []
    remedy = " ".join([*never, *what_to_change(report, policy)])
    raise GateRefusedError(
        f"the privacy gate's verdict is {report.verdict.value} ({reasons})",
        field=f"policy {policy.value}",
        remedy=remedy,
    )


def _check_safe(candidates: Candidates) -> None:
    """Check all values that become paths, table cells or sizes; candidates may come from another machine."""
    table = candidates.table
    names = [str(name) for name in table["class"].unique()]
    for name in names:
        if not is_safe_name(name):
            raise DataError(
                "this class name is not safe as a file name",
                field="class",
                value=name,
                remedy="Use letters, digits, space, dot, dash and underscore in the manifest's classes.",
            )
    if len({name.casefold() for name in names}) != len(names):
        raise DataError(
            "class names differ only in upper and lower case", field="class", remedy="Rename one of them."
        )
    if table.groupby("class")["label"].nunique().max() > 1 or len(names) != table["label"].nunique():
        raise DataError("classes and labels do not match one to one", field="label", remedy="Sample again.")
    pairs = table[["class", "label"]].drop_duplicates().itertuples(index=False)
    if not numbered_by_name({str(name): int(label) for name, label in pairs}):
        raise DataError(
            "the classes are not numbered by their sorted names, so loaders that number the folders of the "
            "release would swap labels",
            field="label",
            remedy="An earlier version made these candidates: ingest and train again, then sample.",
        )
    expected = [sample_id(str(c), int(i)) for c, i in zip(table["class"], table["index"], strict=True)]
    if table["index"].min() < 0 or expected != list(table["sample_id"]) or len(set(expected)) != len(table):
        raise DataError("ids do not match class and index", field="sample_id", remedy="Sample again.")
    if not all(is_safe_name(str(name)) for name in table["sampler"].dropna().unique()):
        raise DataError("this name is not safe in a table", field="sampler", remedy="Sample again.")
    digests = table["checkpoint_digest"].dropna().unique()
    if not all(_DIGEST.fullmatch(str(digest)) for digest in digests):
        raise DataError("not a sha256", field="checkpoint_digest", remedy="Sample again.")
    if not np.isfinite(table["guidance_scale"].dropna().to_numpy(dtype=float)).all():
        raise DataError("not a finite number", field="guidance_scale", remedy="Sample again.")
    read_conditions(table)
    if max(candidates.shards.image_shape) > MAX_SIDE:
        raise DataError(
            f"images are larger than {MAX_SIDE} pixels", field="candidates", remedy="Sample smaller images."
        )


def _equal(audited: pd.Series, ours: pd.Series) -> bool:
    try:
        return audited.equals(ours.astype(audited.dtype))
    except (TypeError, ValueError):
        return False


def _accepted_rows(
    candidates: Candidates, path: Path, report: PrivacyReport
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the accepted rows and record ids, after checking the audit's table row by row."""
    import pandas as pd

    audited = pd.read_parquet(path)
    columns = written_columns(candidates.table)
    wanted = {*columns, "accepted", "reason"}
    if not wanted <= set(audited.columns) or not pd.api.types.is_bool_dtype(audited["accepted"]):
        raise TamperedError("columns are missing", field=f"audit {TABLE_NAME}", remedy=_AGAIN)
    ours = candidates.table
    same = written_columns(audited) == columns and len(audited) == len(ours)
    if not same or not all(_equal(audited[name], ours[name]) for name in columns):
        raise TamperedError("rows differ from the candidates", field="audit", remedy=_AGAIN)
    accepted = audited["accepted"].to_numpy(dtype=bool)
    if (accepted != (audited["reason"].fillna("?") == "").to_numpy()).any():
        raise TamperedError("a row's acceptance contradicts its reason", field="audit", remedy=_AGAIN)
    counted = {str(name): (len(part), int(part["accepted"].sum())) for name, part in audited.groupby("class")}
    reported = {name: (part.candidates, part.accepted) for name, part in report.classes.items()}
    reported = {name: pair for name, pair in reported.items() if pair != (0, 0)}
    short = [part.asked - part.accepted == part.short for part in report.classes.values()]
    if counted != reported or not all(short):
        raise TamperedError("counts differ from the audit's table", field=REPORT_NAME, remedy=_AGAIN)
    chosen = ours.assign(row=np.arange(len(ours)))[accepted]
    chosen = chosen.sort_values(["label", "index"], kind="stable").reset_index(drop=True)
    named = audited["nearest_sample_id"].dropna().unique() if "nearest_sample_id" in audited else ()
    return chosen, tuple(sorted(str(name) for name in named if str(name)))
