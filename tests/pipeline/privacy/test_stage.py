"""The audit as a stage: what it rejects, what it writes, what it refuses."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.artifacts.candidates import CANDIDATE_COLUMNS
from pipeline.artifacts.checkpoint import CheckpointInfo
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.privacy_report import PrivacyReport, read_privacy_report
from pipeline.config import Settings
from pipeline.errors import DataError, TamperedError
from pipeline.privacy import run_audit
from pipeline.records import AuditRef, CheckpointRef, Verdict
from pipeline.stage import load_reference, open_stage, verify_reference
from pipeline.storage import write_json
from tests.checkpoints import description
from tests.cohorts import CLASSES, write_cohort
from tests.pipeline.privacy.sets import KINDS, QUICK, disguised, fresh, write_candidates


def table_of(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "audit" / "candidates.parquet")


def test_planted_copies_are_rejected_without_hash_rules(planted: Path) -> None:
    table = table_of(planted)
    hit = (~table["accepted"] & (table["reason"] != "not needed")).to_numpy()[-50:]
    by_kind = dict(zip(KINDS, hit.reshape(5, 10).sum(axis=1).tolist(), strict=True))
    assert by_kind["exact"] == 10
    assert hit.sum() >= 45, by_kind
    assert not table["reason"].isin(["exact_hash", "perceptual_hash"]).any()


def test_a_set_with_a_quarter_of_copies_fails(planted: Path) -> None:
    report = read_privacy_report(planted / "audit")
    assert report.verdict is Verdict.FAIL
    assert load_reference(AuditRef, planted / "audit").verdict is Verdict.FAIL
    failed = [test for test in report.tests if test.passed is False]
    assert failed and all(test.adjusted_p_value < 0.01 for test in failed)


def test_a_healthy_set_does_not_fail_and_keeps_the_budget(healthy: Path) -> None:
    report = read_privacy_report(healthy / "audit")
    assert report.verdict is not Verdict.FAIL, report.reasons
    assert all(part.accepted == 45 and part.short == 0 for part in report.classes.values())
    assert report.false_reject_interval is not None
    assert report.false_reject_interval[0] <= report.false_reject_budget
    rejected = sum(sum(part.rejected.values()) for part in report.classes.values())
    assert rejected <= 0.15 * 180


def test_plain_planted_copies_are_recalled_in_the_report_itself(healthy: Path) -> None:
    planted = read_privacy_report(healthy / "audit").planted
    assert planted["exact"]["recall"] == 1.0
    plain = [planted[k]["recall"] for k in ("exact", "mirrored", "gamma_0.7", "shifted_6pct", "crop_95pct")]
    assert np.mean(plain) >= 0.9


def test_the_table_keeps_the_lowest_accepted_indices_and_names_the_nearest_train_scan(
    healthy: Path, gate_cohort: Path
) -> None:
    table, cohort = table_of(healthy), Cohort(gate_cohort)
    assert list(table.columns[: len(CANDIDATE_COLUMNS)]) == list(CANDIDATE_COLUMNS)
    assert table["accepted"].dtype == bool and table["nearest_row"].dtype == np.int64
    assert (table["accepted"] == (table["reason"] == "")).all()
    for _, part in table.groupby("class"):
        surplus = part.loc[part["reason"] == "not needed", "index"]
        assert part["accepted"].sum() == 45
        assert surplus.empty or surplus.min() > part.loc[part["accepted"], "index"].max()
    assert set(table["nearest_row"]) <= set(cohort.rows("train").tolist())
    names = cohort.records()["sample_id"].to_numpy()[table["nearest_row"]]
    assert (table["nearest_sample_id"] == names).all()
    ratio = np.log(table["correlation_train"] / table["correlation_holdout"])
    assert np.allclose(ratio, table["correlation_ratio"])
    assert {"embedding_train", "embedding_holdout", "embedding_ratio"} <= set(table.columns)


def test_exact_copies_name_their_own_source(planted: Path, gate_cohort: Path) -> None:
    table, cohort = table_of(planted), Cohort(gate_cohort)
    rows = np.random.default_rng(5).choice(cohort.rows("train"), 50, replace=False)
    assert table["nearest_row"].to_numpy()[130:140].tolist() == rows[:10].tolist()


def test_the_public_report_holds_aggregates_only(planted: Path, gate_cohort: Path) -> None:
    text = (planted / "audit" / "privacy_report.json").read_text()
    records = Cohort(gate_cohort).records()
    assert not [name for name in [*records["sample_id"], *records["patient_id"]] if name in text]
    assert not [name for name in table_of(planted)["sample_id"] if name in text]
    longest = max((len(v) for v in _lists(json.loads(text))), default=0)
    assert longest < 50


def _lists(value: object) -> list[list[object]]:
    if isinstance(value, dict):
        return [found for part in value.values() for found in _lists(part)]
    if isinstance(value, list):
        return [value] + [found for part in value for found in _lists(part)]
    return []


def test_outputs_are_private(healthy: Path) -> None:
    audit = healthy / "audit"
    assert stat.S_IMODE(audit.stat().st_mode) == 0o700
    for name in ("privacy_report.json", "candidates.parquet", "report.html"):
        assert stat.S_IMODE((audit / name).stat().st_mode) == 0o600
    page = (audit / "report.html").read_text()
    assert "PRIVATE" in page and page.count("<figure>") == 12
    assert "http://" not in page and "https://" not in page


def test_an_audit_is_reused_and_its_content_is_the_same_when_repeated(
    healthy: Path, gate_cohort: Path, tmp_path: Path
) -> None:
    first = load_reference(AuditRef, healthy / "audit")
    again = run_audit(healthy / "candidates", gate_cohort, healthy / "audit", QUICK, seed=0)
    assert again == first
    other = run_audit(healthy / "candidates", gate_cohort, tmp_path / "audit", QUICK, seed=0)
    assert other.digest == first.digest
    verify_reference(AuditRef, tmp_path / "audit")


def test_hash_rules_and_duplicates_reject(gate_cohort: Path, tmp_path: Path) -> None:
    cohort = Cohort(gate_cohort)
    row = cohort.rows("train", 0)[:1]
    copy = cohort.take(row)
    pixels, labels = fresh(30, seed=3)
    twin = pixels[:1].copy()
    twin[0, 0, 0, 0] ^= 1
    everything = np.concatenate([pixels, copy, disguised(copy, "mirrored"), twin])
    codes = np.concatenate([labels, [0, 0, 0]])
    write_candidates(tmp_path / "candidates", everything, codes, per_class=5)
    run_audit(tmp_path / "candidates", gate_cohort, tmp_path / "audit", QUICK, seed=0)
    reasons = table_of(tmp_path)["reason"].tolist()
    assert reasons[30:] == ["exact_hash", "perceptual_hash", "duplicate"]
    assert reasons[0] != "duplicate"


def test_a_class_that_runs_short_fails_and_is_not_topped_up(gate_cohort: Path, tmp_path: Path) -> None:
    pixels, labels = fresh(33, seed=4)
    write_candidates(tmp_path / "candidates", pixels, labels, per_class=12)
    run_audit(tmp_path / "candidates", gate_cohort, tmp_path / "audit", QUICK, seed=0)
    report = read_privacy_report(tmp_path / "audit")
    assert report.verdict is Verdict.FAIL
    assert all(part.verdict is Verdict.FAIL and part.short >= 1 for part in report.classes.values())
    assert all("requested, but" in " ".join(part.reasons) for part in report.classes.values())


def audited(cohort: Path, tmp_path: Path, **settings: object) -> PrivacyReport:
    pixels, labels = fresh(60, seed=6)
    write_candidates(tmp_path / "candidates", pixels, labels, per_class=12)
    run_audit(tmp_path / "candidates", cohort, tmp_path / "audit", QUICK.model_copy(update=settings), seed=0)
    return read_privacy_report(tmp_path / "audit")


def test_without_patient_ids_the_verdict_is_inconclusive(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", num_scans=600, has_patient_ids=False).path
    report = audited(cohort, tmp_path, min_power=0.001, planted_share=0.5, embedding_steps=5)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "no patient ids" in " ".join(report.reasons)


def test_with_few_holdout_patients_the_verdict_is_inconclusive_and_says_how_many(
    gate_cohort: Path, tmp_path: Path
) -> None:
    report = audited(gate_cohort, tmp_path, min_holdout_patients=500)
    held = report.reference_counts["holdout_patients"]
    assert report.verdict is Verdict.INCONCLUSIVE
    assert f"{held} holdout patients are too few" in " ".join(report.reasons)


def test_little_power_is_said_and_much_power_passes(gate_cohort: Path, tmp_path: Path) -> None:
    weak = audited(gate_cohort, tmp_path / "weak")
    assert weak.verdict is Verdict.INCONCLUSIVE
    assert "would have been detected with a probability of only" in " ".join(weak.reasons)
    strong = audited(gate_cohort, tmp_path / "strong", planted_share=0.5)
    assert strong.verdict is Verdict.PASS, strong.reasons
    assert max(test.power or 0 for test in strong.tests) >= 0.8
    pages = [(tmp_path / name / "audit" / "report.html").read_text() for name in ("weak", "strong")]
    assert ["What to change" in page for page in pages] == [True, False]


def test_edited_candidates_are_refused(gate_cohort: Path, tmp_path: Path) -> None:
    pixels, labels = fresh(9, seed=7)
    write_candidates(tmp_path / "candidates", pixels, labels, per_class=3)
    shard = tmp_path / "candidates" / "pixels-00000.npy"
    body = bytearray(shard.read_bytes())
    body[-1] ^= 1
    shard.write_bytes(body)
    with pytest.raises(TamperedError, match="pixels-00000"):
        run_audit(tmp_path / "candidates", gate_cohort, tmp_path / "audit", QUICK, seed=0)
    assert not (tmp_path / "audit").exists()


def test_candidates_of_another_size_are_refused(gate_cohort: Path, tmp_path: Path) -> None:
    pixels, labels = fresh(9, seed=8, size=16)
    write_candidates(tmp_path / "candidates", pixels, labels, per_class=3)
    with pytest.raises(DataError, match="size"):
        run_audit(tmp_path / "candidates", gate_cohort, tmp_path / "audit", QUICK, seed=0)


def write_foreign(folder: Path, count: int, size: int = 32) -> None:
    pixels, labels = fresh(count, seed=9, size=size)
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / CLASSES[label] / f"image{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)


def test_a_folder_of_images_by_class_is_audited(gate_cohort: Path, tmp_path: Path) -> None:
    write_foreign(tmp_path / "foreign", 60, size=64)
    reference = run_audit(tmp_path / "foreign", gate_cohort, tmp_path / "audit", QUICK, seed=0)
    report, table = read_privacy_report(tmp_path / "audit"), table_of(tmp_path)
    assert reference.counts["candidates"] == 60 and table["seed"].isna().all()
    assert report.checkpoint_digest == ""
    assert "60 of 60 images were resized" in " ".join(report.not_covered)
    assert [*table["file"]] == sorted(f"{CLASSES[i % 3]}/image{i:03d}.png" for i in range(60))


def test_a_foreign_set_fails_for_what_it_gives_away_and_not_for_one_rejected_image(
    gate_cohort: Path, tmp_path: Path
) -> None:
    """Nobody said how many of them are wanted: at any size the budget alone rejects some of them."""
    write_foreign(tmp_path / "foreign", 60)
    cohort = Cohort(gate_cohort)
    copy = cohort.take(cohort.rows("train", 0)[:1])[0, 0]
    Image.fromarray(copy).save(tmp_path / "foreign" / CLASSES[0] / "zz_copy.png")
    run_audit(tmp_path / "foreign", gate_cohort, tmp_path / "audit", QUICK, seed=0)
    report, table = read_privacy_report(tmp_path / "audit"), table_of(tmp_path)
    assert table.loc[table["file"] == f"{CLASSES[0]}/zz_copy.png", "reason"].tolist() == ["exact_hash"]
    part = report.classes[CLASSES[0]]
    assert part.candidates == 21 and 0 < part.asked == part.accepted < 21 and part.short == 0
    assert report.verdict is not Verdict.FAIL, report.reasons

    for kept in (tmp_path / "foreign" / CLASSES[1]).iterdir():
        kept.unlink()
    for place, pixels in enumerate(cohort.take(cohort.rows("train", 1)[:20])):
        Image.fromarray(pixels[0]).save(tmp_path / "foreign" / CLASSES[1] / f"{place}.png")
    run_audit(tmp_path / "foreign", gate_cohort, tmp_path / "copies", QUICK, seed=0)
    part = read_privacy_report(tmp_path / "copies").classes[CLASSES[1]]
    assert part.verdict is Verdict.FAIL and (part.accepted, part.short) == (0, 1)
    assert "1 image was requested, but 0 of 20 candidates passed the gate" in part.reasons


@pytest.mark.parametrize("fault", ["class", "small", "broken", "empty", "missing"])
def test_a_folder_that_cannot_be_audited_is_refused(gate_cohort: Path, tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "foreign"
    if fault == "class":
        write_foreign(folder, 3)
        (folder / CLASSES[0]).rename(folder / "other")
    elif fault == "small":
        write_foreign(folder, 3, size=16)
    elif fault == "broken":
        write_foreign(folder, 3)
        (folder / CLASSES[0] / "image000.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    elif fault == "empty":
        folder.mkdir()
    with pytest.raises(DataError) as caught:
        run_audit(folder, gate_cohort, tmp_path / "audit", QUICK, seed=0)
    assert "image000" not in str(caught.value)
    assert caught.value.remedy


def test_a_checkpoint_of_another_cohort_or_other_candidates_is_refused(
    gate_cohort: Path, tmp_path: Path
) -> None:
    pixels, labels = fresh(9, seed=10)
    write_candidates(tmp_path / "candidates", pixels, labels, per_class=3)
    own = Cohort(gate_cohort).digest
    for name, digest, word in (("a", "d" * 64, "another cohort"), ("b", own, "another checkpoint")):
        checkpoint = write_checkpoint(tmp_path / name, digest)
        with pytest.raises(DataError, match=word):
            run_audit(
                tmp_path / "candidates", gate_cohort, tmp_path / "audit", QUICK, seed=0, checkpoint=checkpoint
            )
    assert not (tmp_path / "audit").exists()


def write_checkpoint(folder: Path, cohort_digest: str) -> Path:
    """Write a finished checkpoint directory whose description names a cohort; the audit reads no weights."""
    fields = description(classes=CLASSES, image_size=(32, 32), cohort_digest=cohort_digest)
    info = CheckpointInfo.model_validate(fields)
    with open_stage(CheckpointRef, folder, inputs={}, settings=Settings(), seed=0) as stage:
        write_json(folder / "checkpoint.json", info.model_dump(mode="json"))
        return stage.finish(["checkpoint.json"], {}).path
