"""No release without an intact audit of these very candidates and a verdict that the policy allows."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.artifacts.candidates import TABLE_NAME
from pipeline.artifacts.privacy_report import REPORT_NAME, ClassVerdict, TestResult
from pipeline.errors import DataError, GateRefusedError, PhosphorError, TamperedError
from pipeline.records import Policy, Verdict
from pipeline.release import ReleaseSettings, run_release
from pipeline.release.layout import is_safe_name
from pipeline.stage import REFERENCE_NAME
from pipeline.storage import digest_of, sha256_file
from tests.pipeline.release.sets import RECORD_IDS, make_audit, make_candidates

Gated = tuple[Path, Path]
FAILED_TEST = TestResult(
    name="sign_test",
    view="correlation",
    scope="pooled",
    num_samples=25,
    statistic=0.9,
    null_value=0.5,
    p_value=0.001,
    adjusted_p_value=0.004,
    power=0.9,
    passed=False,
)


def refused(
    kind: type[PhosphorError], match: str, candidates: Path, audit: Path, out: Path, **more: Any
) -> None:
    """Assert the refusal, its exit code, and that nothing was written."""
    settings = more.pop("settings", ReleaseSettings(policy=Policy.RESEARCH))
    with pytest.raises(kind, match=match) as caught:
        run_release(candidates, audit, out / "release", settings, seed=1, **more)
    assert caught.value.exit_code == (4 if kind is GateRefusedError else 3)
    assert not out.exists() or not [path for path in out.iterdir() if path.name != ".release.lock"]


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("force", [False, True])
def test_fail_is_refused_under_every_policy(
    gated: Gated, tmp_path: Path, policy: Policy, force: bool
) -> None:
    audit = make_audit(tmp_path / "audit", gated[0], verdict=Verdict.FAIL, tests=(FAILED_TEST,))
    settings = ReleaseSettings(policy=policy)
    # What can be changed is said where it is refused.
    message = "FAIL.*FAIL is never released. The most copy-like images.*sample and audit again"
    refused(GateRefusedError, message, gated[0], audit, tmp_path / "out", settings=settings, force=force)


def test_strict_is_the_default_and_refuses_inconclusive(
    gated: Gated, inconclusive: Path, tmp_path: Path
) -> None:
    message = "INCONCLUSIVE.*12 holdout patients.*research"
    refused(GateRefusedError, message, gated[0], inconclusive, tmp_path / "out", settings=ReleaseSettings())


def test_no_argument_can_pass_a_verdict() -> None:
    assert "verdict" not in inspect.signature(run_release).parameters
    assert set(ReleaseSettings.model_fields) == {"policy", "formats", "preview_per_class"}


@pytest.mark.parametrize("name", [TABLE_NAME, "pixels-00000.npy", "pixels-00001.npy"])
def test_a_changed_candidate_file_is_refused(gated: Gated, tmp_path: Path, name: str) -> None:
    candidates = Path(shutil.copytree(gated[0], tmp_path / "candidates"))
    content = bytearray((candidates / name).read_bytes())
    content[len(content) // 2] ^= 1
    (candidates / name).write_bytes(bytes(content))
    refused(TamperedError, name, candidates, gated[1], tmp_path / "out")


@pytest.mark.parametrize("name", [TABLE_NAME, REPORT_NAME])
def test_a_changed_audit_file_is_refused(gated: Gated, tmp_path: Path, name: str) -> None:
    audit = Path(shutil.copytree(gated[1], tmp_path / "audit"))
    content = bytearray((audit / name).read_bytes())
    content[len(content) // 2] ^= 1
    (audit / name).write_bytes(bytes(content))
    refused(TamperedError, name, gated[0], audit, tmp_path / "out")


def edit_fail_to_pass(audit: Path) -> None:
    text = (audit / REPORT_NAME).read_text()
    (audit / REPORT_NAME).write_text(text.replace('"verdict": "FAIL"', '"verdict": "PASS"'))


def accept_everything(audit: Path) -> None:
    table = pd.read_parquet(audit / TABLE_NAME).assign(accepted=True, reason="")
    table.to_parquet(audit / TABLE_NAME)


def forget_the_report(audit: Path) -> None:
    """Edit the report and leave it out of the reference, whose digest is made right again."""
    edit_fail_to_pass(audit)
    body = json.loads((audit / REFERENCE_NAME).read_text())
    del body["files"][REPORT_NAME]
    body |= {"digest": digest_of(body["files"]), "verdict": "PASS"}
    (audit / REFERENCE_NAME).write_text(json.dumps(body))


def mend_the_report_alone(audit: Path) -> None:
    """Edit only the report's top verdict, and mend its hash and the digest."""
    body = json.loads((audit / REPORT_NAME).read_text()) | {"verdict": "PASS"}
    (audit / REPORT_NAME).write_text(json.dumps(body))
    record = json.loads((audit / REFERENCE_NAME).read_text())
    record["files"][REPORT_NAME] = sha256_file(audit / REPORT_NAME)
    record["digest"] = digest_of(record["files"])
    (audit / REFERENCE_NAME).write_text(json.dumps(record))


def mend_verdicts_but_not_classes(audit: Path) -> None:
    mend_the_report_alone(audit)
    record = json.loads((audit / REFERENCE_NAME).read_text()) | {"verdict": "PASS"}
    (audit / REFERENCE_NAME).write_text(json.dumps(record))


@pytest.mark.parametrize(
    "edit",
    [
        edit_fail_to_pass,
        accept_everything,
        forget_the_report,
        mend_the_report_alone,
        mend_verdicts_but_not_classes,
    ],
)
def test_an_edited_fail_stays_refused(gated: Gated, tmp_path: Path, edit: Callable[[Path], None]) -> None:
    audit = make_audit(tmp_path / "audit", gated[0], verdict=Verdict.FAIL)
    edit(audit)
    refused(TamperedError, "edited|differs|recorded|milder", gated[0], audit, tmp_path / "out")


def test_an_audit_of_other_candidates_is_refused(gated: Gated, tmp_path: Path) -> None:
    other = make_candidates(tmp_path / "other", seed=9)
    refused(TamperedError, "other candidates", other, gated[1], tmp_path / "out")


TABLE_CHANGES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "a row more": lambda t: pd.concat([t, t.tail(1)]),
    "a row less": lambda t: t.iloc[:-1],
    "rows swapped": lambda t: t.iloc[[1, 0, *range(2, len(t))]],
    "another id": lambda t: t.assign(sample_id=["x-000000", *t["sample_id"][1:]]),
    "another seed": lambda t: t.assign(seed=t["seed"] + 1),
    "text for numbers": lambda t: t.assign(label="zero"),
    "accepted in words": lambda t: t.assign(accepted=t["accepted"].astype(str)),
    "acceptance contradicts its reason": lambda t: t.assign(accepted=True),
    "all accepted": lambda t: t.assign(accepted=True, reason=""),
    "one less accepted": lambda t: t.assign(
        accepted=t["accepted"] & (t["index"] != 0), reason=np.where(t["index"] == 0, "?", t["reason"])
    ),
    "no reasons": lambda t: t.drop(columns="reason"),
}


@pytest.mark.parametrize("change", TABLE_CHANGES)
def test_an_audit_table_that_fits_neither_candidates_nor_report_is_refused(
    gated: Gated, tmp_path: Path, change: str
) -> None:
    audit = make_audit(tmp_path / "audit", gated[0], change_table=TABLE_CHANGES[change])
    refused(TamperedError, "audit", gated[0], audit, tmp_path / "out")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"has_patient_ids": False}, "patient ids"),
        ({"tests": (FAILED_TEST,)}, "a test failed"),
        ({"asked": 6}, "is short"),
        ({"not_covered": (f"scan {RECORD_IDS[0]}",)}, "names a record"),
        ({"reasons": ("patient p-0123456789abcdef is near",)}, "names a record"),
    ],
)
def test_a_report_that_cannot_be_true_or_public_is_refused(
    gated: Gated, tmp_path: Path, fields: dict[str, Any], match: str
) -> None:
    audit = make_audit(tmp_path / "audit", gated[0], **fields)
    refused(TamperedError, match, gated[0], audit, tmp_path / "out")


def test_a_shortage_that_the_report_hides_is_refused(gated: Gated, tmp_path: Path) -> None:
    part = {"verdict": "PASS", "candidates": 6, "accepted": 5, "short": 0, "rejected": {}}
    classes = {name: ClassVerdict(asked=6, **part) for name in ("mass", "normal")}
    audit = make_audit(tmp_path / "audit", gated[0], classes=classes)
    refused(TamperedError, "counts", gated[0], audit, tmp_path / "out")


def test_a_record_named_through_the_provenance_is_refused(gated: Gated, tmp_path: Path) -> None:
    run = {"recipe": {"note": f"nearest was {RECORD_IDS[3].upper()}"}}
    refused(DataError, "would name a real scan", *gated, tmp_path / "out", provenance=run)


def test_nothing_accepted_is_nothing_released(gated: Gated, tmp_path: Path) -> None:
    audit = make_audit(tmp_path / "audit", gated[0], rejected=tuple(range(6)))
    refused(GateRefusedError, "no candidate", gated[0], audit, tmp_path / "out")


@pytest.mark.parametrize(
    "names", [("=SUM(A1)", "b"), ("a", "b\nc"), ("a", "CON"), ("Mass", "mass"), ("a.", "b")]
)
def test_class_names_unsafe_as_files_or_cells_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    candidates = make_candidates(tmp_path / "candidates", classes=names)
    audit = make_audit(tmp_path / "audit", candidates)
    refused(DataError, "class", candidates, audit, tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "/etc",
        "-rf",
        "=1+1",
        "+1",
        "@x",
        "\t",
        "a\0",
        "a ",
        "nul.txt",
        "ä",
        "a" * 101,
    ],
)
def test_harmful_names_are_not_safe(name: str) -> None:
    assert not is_safe_name(name)


def test_ordinary_class_names_are_safe() -> None:
    assert all(map(is_safe_name, ["normal", "Pneumonia", "no finding", "grade_2-b", "T1.5"]))


def test_a_foreign_set_can_not_be_released(gated: Gated, tmp_path: Path) -> None:
    (tmp_path / "foreign" / "mass").mkdir(parents=True)
    refused(DataError, "foreign", tmp_path / "foreign", gated[1], tmp_path / "out")


def test_a_folder_that_is_no_audit_is_refused(gated: Gated, tmp_path: Path) -> None:
    refused(DataError, "audit", gated[0], gated[0], tmp_path / "out")
