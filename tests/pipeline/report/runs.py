"""Run folders for the report's tests, written through the real layouts of every output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.artifacts.candidates import sample_id, write_candidate_table
from pipeline.artifacts.checkpoint import CheckpointInfo
from pipeline.artifacts.cohort import Cohort, CohortInfo
from pipeline.artifacts.pixels import StoredPixels, write_shard
from pipeline.artifacts.privacy_report import (
    ClassVerdict,
    MembershipResult,
    PrivacyReport,
    TestResult,
    Threshold,
)
from pipeline.config import Settings
from pipeline.records import (
    AuditRef,
    CandidatesRef,
    CheckpointRef,
    CohortRef,
    ReleaseRef,
    Verdict,
)
from pipeline.rendering.pictures import contact_sheet
from pipeline.stage import REFERENCE_NAME, load_reference, open_stage
from pipeline.storage import (
    digest_files,
    digest_of,
    make_private_directory,
    read_json,
    write_json,
    write_parquet,
)
from tests.cohorts import write_cohort
from tests.pipeline.report.evaluations import write_evaluation

PER_CLASS = 12
DRAWN_PER_CLASS = 15


class StageSettings(Settings):
    """Stands for a stage's settings, with the few keys that the report reads by name."""

    per_class: int = PER_CLASS
    num_steps: int = 400


SIGN = MembershipResult(
    attack="release_combined",
    members=7,
    non_members=6,
    auc=0.929,
    noticeable_auc=1.0,
    hit_rate=0.7,
    hit_rate_interval=(0.3, 0.9),
    p_value=0.004,
    adjusted_p_value=0.012,
    passed=True,
    epsilon_lower_bound=0.0,
    guesses=4,
    correct=4,
)
"""An attack whose strong result so few patients cannot bring below the threshold."""


@dataclass(frozen=True)
class Case:
    """What a run folder shall say.

    Attributes:
        verdict: of the gate.
        policy: of the recipe.
        released, evaluated: whether these outputs were made.
        patients: whether the cohort has patient ids.
        classes: names of the classes (as many as the cohort has).
        notes: notes of ingest.
        sign: whether an attack on the release, of few patients, comes close to failing.
        pixels, labels: real scans to use instead of drawn ones.
    """

    verdict: Verdict = Verdict.PASS
    policy: str = "strict"
    released: bool = True
    evaluated: bool = True
    patients: bool = True
    classes: tuple[str, ...] = ("disc", "line", "ring")
    notes: tuple[str, ...] = ()
    sign: bool = False
    pixels: StoredPixels | None = None
    labels: np.ndarray | None = None


def write_run(folder: Path, case: Case) -> Path:
    """Write a run folder of one case; return it."""
    make_private_directory(folder)
    cohort = Cohort(_cohort(folder / "cohort", case).path)
    checkpoint = _checkpoint(folder / "checkpoint", cohort)
    candidates = _candidates(folder / "candidates", cohort, checkpoint)
    report = _audit(folder / "audit", cohort, candidates, checkpoint, case)
    if case.released:
        release = _release(folder / "release", report, load_reference(AuditRef, folder / "audit"))
        if case.evaluated:
            write_evaluation(folder / "evaluation", cohort, release, StageSettings())
    (folder / "recipe.yaml").write_text(f"seed: 7\nrelease:\n  policy: {case.policy}\n", encoding="utf-8")
    seconds = {
        "ingest": 4.2,
        "train": 312.0,
        "sample": 41.0,
        "audit": 63.5,
        "release": 2.4,
        "evaluate": 118.0,
    }
    write_json(folder / "timings.json", seconds)
    return folder


def _cohort(folder: Path, case: Case) -> CohortRef:
    write_cohort(
        folder,
        pixels=case.pixels,
        labels=case.labels,
        classes=case.classes,
        has_patient_ids=case.patients,
    )
    if case.notes:
        info = CohortInfo.model_validate(read_json(folder / "cohort.json", role="cohort"))
        changed = info.model_copy(update={"notes": case.notes})
        write_json(folder / "cohort.json", changed.model_dump(mode="json"), private=True)
        body = read_json(folder / REFERENCE_NAME, role="cohort")
        files = digest_files(folder, list(body["files"]))
        write_json(
            folder / REFERENCE_NAME, {**body, "files": files, "digest": digest_of(files)}, private=True
        )
    write_parquet(folder / "rejected.parquet", pd.DataFrame({"reason": ["not an image"] * 3 + ["colour"]}))
    return load_reference(CohortRef, folder)


def _checkpoint(folder: Path, cohort: Cohort) -> CheckpointRef:
    with open_stage(
        CheckpointRef, folder, inputs={"cohort": cohort.digest}, settings=StageSettings(), seed=7
    ) as stage:
        info = CheckpointInfo(
            network={"channels": [32, 64, 64]},
            sigma_data=0.5,
            classes=cohort.info.classes,
            image_size=cohort.info.image_size,
            bit_depth=8,
            cohort_digest=cohort.digest,
            cohort_name=cohort.info.name,
            num_steps=400,
            images_seen=25_600,
            seed=7,
            precision="bf16",
            channels_last=False,
            num_threads=2,
            device="cpu",
            libraries={"python": "3.11.9", "torch": "2.13.0"},
        )
        write_json(folder / "checkpoint.json", info.model_dump(mode="json"), private=True)
        (folder / "model.safetensors").write_bytes(b"weights")
        rng = np.random.default_rng(1)
        lines = ["step,images,seconds,loss,images_per_second,learning_rate"]
        for step in range(2, 401, 2):
            loss = 0.12 + 0.9 * np.exp(-step / 40) + rng.normal(0, 0.008)
            speed = 176 + rng.normal(0, 4)
            lines.append(f"{step},{step * 64},{step * 0.36:.3f},{loss:.6f},{speed:.2f},1.0e-03")
        (folder / "progress.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / "grids").mkdir()
        for step in (100, 200, 300, 400):
            noise = rng.integers(0, 256, (12, 1, *cohort.info.image_size))
            mixed = (noise * (400 - step) + cohort.take(cohort.rows("train")[:12]).astype(int) * step) // 400
            png = contact_sheet(mixed.astype(np.uint8), 6)
            (folder / "grids" / f"step-{step:06d}.png").write_bytes(png)
        return stage.finish(["checkpoint.json", "model.safetensors"], {"steps": 400, "parameters": 1_100_000})


def _candidates(folder: Path, cohort: Cohort, checkpoint: CheckpointRef) -> CandidatesRef:
    inputs = {"checkpoint": checkpoint.digest}
    with open_stage(CandidatesRef, folder, inputs=inputs, settings=StageSettings(), seed=7) as stage:
        rng = np.random.default_rng(3)
        images, rows = [], []
        for label, name in enumerate(cohort.info.classes):
            # Blends of two real scans of the class stand for drawn images: alike, yet none of them.
            pool = cohort.rows("train", label)
            for index in range(DRAWN_PER_CLASS):
                two = cohort.take(rng.choice(pool, 2, replace=False)).astype(float)
                images.append((two[0] * 0.5 + two[1] * 0.5).astype(np.uint8))
                rows.append((sample_id(name, index), name, label, index, 1000 + len(rows)))
        table = pd.DataFrame(rows, columns=["sample_id", "class", "label", "index", "seed"])
        table = table.assign(
            sampler="dpmpp_2m", num_steps=20, guidance_scale=1.0, checkpoint_digest=checkpoint.digest
        )
        names = [write_shard(folder, 0, np.stack(images)), write_candidate_table(folder, table)]
        return stage.finish(names, {"candidates": len(images)})


def _audit(
    folder: Path, cohort: Cohort, candidates: CandidatesRef, checkpoint: CheckpointRef, case: Case
) -> PrivacyReport:
    table = pd.read_parquet(candidates.path / "candidates.parquet")
    rng = np.random.default_rng(5)
    nearest = np.array([rng.choice(cohort.rows("train", label)) for label in table["label"]])
    ids = cohort.records()["sample_id"]
    accepted = (table["index"] < PER_CLASS).to_numpy()
    if case.verdict is Verdict.FAIL:
        accepted = accepted & (table["label"] != 0).to_numpy()
    ratios = rng.normal(0, 0.1, (len(table), 2))
    table = table.assign(
        accepted=accepted,
        reason=np.where(accepted, "", np.where(table["index"] < PER_CLASS, "too similar", "not needed")),
        nearest_row=nearest,
        nearest_sample_id=ids.iloc[nearest].to_numpy(),
        correlation_train=0.4,
        correlation_holdout=0.4,
        correlation_ratio=ratios[:, 0] - 0.3,
        correlation_isolation=-np.abs(ratios[:, 1]),
    )
    report = _privacy_report(cohort, candidates, checkpoint, table, case)
    with open_stage(
        AuditRef,
        folder,
        inputs={"candidates": candidates.digest, "cohort": cohort.digest},
        settings=StageSettings(),
        seed=7,
    ) as stage:
        write_json(folder / "privacy_report.json", report.model_dump(mode="json"), private=True)
        write_parquet(folder / "candidates.parquet", table, private=True)
        names = ["privacy_report.json", "candidates.parquet"]
        stage.finish(names, {"accepted": int(accepted.sum())}, verdict=case.verdict)
    return report


def _privacy_report(
    cohort: Cohort, candidates: CandidatesRef, checkpoint: CheckpointRef, table: pd.DataFrame, case: Case
) -> PrivacyReport:
    failed = case.verdict is Verdict.FAIL
    reasons = {
        Verdict.PASS: ("No test failed; planted copies would be noticed with power 0.93 or more.",),
        Verdict.INCONCLUSIVE: ("The holdout has 24 patients; the policy asks for 50.",),
        Verdict.FAIL: (f"Class {cohort.info.classes[0]}: 12 images short after rejection.",),
    }[case.verdict]
    power = 0.93 if case.verdict is Verdict.PASS else 0.41
    classes = {
        name: ClassVerdict(
            verdict=case.verdict if label == 0 or not failed else Verdict.PASS,
            asked=PER_CLASS,
            candidates=DRAWN_PER_CLASS,
            accepted=int(table["accepted"][table["label"] == label].sum()),
            short=PER_CLASS if failed and label == 0 else 0,
            rejected={"too similar": PER_CLASS if failed and label == 0 else 1, "duplicate": 0},
            reasons=reasons if label == 0 else (),
            power=power,
        )
        for label, name in enumerate(cohort.info.classes)
    }
    tests = tuple(
        TestResult(
            name="sign_test",
            view=view,
            scope=scope,
            num_samples=25,
            statistic=0.96 if failed and scope == cohort.info.classes[0] else 0.52,
            null_value=0.5,
            p_value=1e-5 if failed and scope == cohort.info.classes[0] else 0.42,
            adjusted_p_value=8e-5 if failed and scope == cohort.info.classes[0] else 1.0,
            power=power,
            power_against="2 % planted copies",
            passed=not (failed and scope == cohort.info.classes[0]),
        )
        for view in ("correlation", "embedding")
        for scope in ("pooled", *cohort.info.classes)
    )
    excess = TestResult(
        name="excess_copies",
        view="correlation",
        scope="pooled",
        num_samples=len(table),
        statistic=0.004,
        null_value=0.0,
        p_value=None,
        adjusted_p_value=None,
        power=None,
        passed=None,
        note="estimated share of copies among all candidates",
    )
    return PrivacyReport(
        verdict=case.verdict,
        reasons=reasons,
        policy_note="",
        cohort_digest=cohort.digest,
        candidates_digest=candidates.digest,
        checkpoint_digest=checkpoint.digest,
        has_patient_ids=case.patients,
        classes=classes,
        tests=(*tests, excess),
        thresholds=(
            Threshold(
                view="correlation",
                rule="ratio of distances below",
                value=-0.31,
                false_reject_rate=0.021,
                interval=(0.008, 0.044),
                num_fresh=330,
            ),
            Threshold(
                view="embedding",
                rule="similarity above",
                value=0.94,
                false_reject_rate=None,
                interval=None,
                num_fresh=0,
            ),
        ),
        reference_counts={"train_images": 132, "holdout_images": 48, "holdout_patients": 24},
        false_reject_budget=0.05,
        false_reject_rate=0.037,
        false_reject_interval=(0.019, 0.063),
        planted={
            "exact": {"recall": 1.0, "low": 0.926, "high": 1.0, "n": 48},
            "shift_2_pixels": {"recall": 0.896, "low": 0.773, "high": 0.965, "n": 48},
            "shift_3_pixels": {"recall": 0.5, "low": 0.35, "high": 0.65, "n": 48},
        },
        planted_strengths={"shift": {"shift_2_pixels": 2.0, "shift_3_pixels": 3.0}},
        membership=(SIGN,) if case.sign else (),
        not_covered=("Copies of a part of an image.", "Membership inference on the model."),
        settings={"false_reject_budget": 0.05},
    )


def _release(folder: Path, report: PrivacyReport, audit: AuditRef) -> ReleaseRef:
    with open_stage(
        ReleaseRef,
        folder,
        inputs={"a": report.candidates_digest},
        settings=StageSettings(),
        seed=7,
    ) as stage:
        body = report.model_copy(update={"policy_note": "allowed under this policy"})
        write_json(folder / "privacy_report.json", body.model_dump(mode="json"))
        write_parquet(folder / "metadata.parquet", pd.DataFrame({"sample_id": ["disc-000000"]}))
        made_from = {"candidates": report.candidates_digest, "audit": audit.digest}
        write_json(
            folder / "provenance.json", {"digests": made_from, "release_settings": {"formats": ["png"]}}
        )
        return stage.finish(["metadata.parquet"], {"images": 36}, verdict=report.verdict)
