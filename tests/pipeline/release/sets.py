"""Small candidates and audits through the real layouts, for tests of the release."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.artifacts.candidates import Candidates, sample_id, write_candidate_table
from pipeline.artifacts.pixels import StoredPixels, write_shard
from pipeline.artifacts.privacy_report import REPORT_NAME, ClassVerdict, PrivacyReport, Threshold
from pipeline.config import Settings
from pipeline.records import AuditRef, CandidatesRef, Verdict
from pipeline.stage import open_stage
from pipeline.storage import digest_of, write_json, write_parquet

CLASSES = ("mass", "normal")
CHECKPOINT = digest_of("checkpoint")
COHORT = digest_of("cohort")
RECORD_IDS = tuple(f"s-{number:016x}" for number in range(0x5EED0000, 0x5EED0040))


class CandidateSettings(Settings):
    per_class: int


class GateSettings(Settings):
    note: str = ""


def make_candidates(
    folder: Path,
    *,
    per_class: int = 6,
    size: int = 16,
    bit_depth: int = 8,
    classes: tuple[str, ...] = CLASSES,
    only: tuple[str, ...] | None = None,
    seed: int = 0,
    seedless: bool = False,
    conditions: Sequence[str] = (),
) -> Path:
    """Write candidates of smooth random images, `per_class` of each class (of `only` some), in two shards.

    `conditions` are what they were asked to show, taken in turn.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = [
        {
            "sample_id": sample_id(name, index),
            "class": name,
            "label": label,
            "index": index,
            "seed": int(rng.integers(2**62)),
            "sampler": "heun",
            "num_steps": 18,
            "guidance_scale": 1.5,
            "checkpoint_digest": CHECKPOINT,
        }
        for label, name in enumerate(classes)
        if only is None or name in only
        for index in range(per_class)
    ]
    top = 255 if bit_depth == 8 else 65535
    dtype = np.uint8 if bit_depth == 8 else np.uint16
    y, x = np.mgrid[0:size, 0:size] / size
    waves = [np.sin(rng.uniform(1, 9) * x + rng.uniform(1, 9) * y + rng.uniform(0, 6)) for _ in rows]
    pixels: StoredPixels = np.stack([((wave + 1) * top / 2).astype(dtype) for wave in waves])[:, None]
    settings = CandidateSettings(per_class=per_class)
    inputs = {"checkpoint": CHECKPOINT}
    with open_stage(CandidatesRef, folder, inputs=inputs, settings=settings, seed=seed) as stage:
        half = len(rows) // 2
        names = [write_shard(folder, 0, pixels[:half]), write_shard(folder, 1, pixels[half:])]
        table = pd.DataFrame(rows)
        table["seed"] = pd.array([None] * len(rows) if seedless else table["seed"], dtype="Int64")
        if conditions:
            table["condition"] = [conditions[row % len(conditions)] for row in range(len(rows))]
        names.append(write_candidate_table(folder, table))
        stage.finish(files=names, counts={"candidates": len(rows)})
    return folder


def make_audit(
    folder: Path,
    candidates: Path,
    *,
    verdict: Verdict = Verdict.PASS,
    rejected: tuple[int, ...] = (1,),
    asked: int | None = None,
    change_table: Any = None,
    **fields: Any,
) -> Path:
    """Write an audit that rejects the candidates of these indices in each class.

    `change_table` may edit the table, `fields` replace fields of the report, before either is recorded.
    """
    opened = Candidates(candidates)
    accepted = ~opened.table["index"].isin(rejected).to_numpy()
    table = opened.table.assign(
        accepted=accepted,
        reason=np.where(accepted, "", "correlation"),
        nearest_row=np.arange(len(opened)),
        nearest_sample_id=[RECORD_IDS[row % len(RECORD_IDS)] for row in range(len(opened))],
        correlation_train=0.25,
    )
    by_class = {}
    for name, part in table.groupby("class"):
        kept = int(part["accepted"].sum())
        by_class[str(name)] = ClassVerdict(
            verdict=verdict,
            asked=kept if asked is None else asked,
            candidates=len(part),
            accepted=kept,
            short=0 if asked is None else max(asked - kept, 0),
            rejected={"correlation": len(part) - kept},
        )
    body: dict[str, Any] = {
        "verdict": verdict,
        "reasons": () if verdict is Verdict.PASS else ("12 holdout patients, 50 are needed",),
        "policy_note": "",
        "cohort_digest": COHORT,
        "candidates_digest": opened.digest,
        "checkpoint_digest": CHECKPOINT,
        "has_patient_ids": True,
        "classes": by_class,
        "tests": (),
        "thresholds": (
            Threshold(
                view="correlation",
                rule="similarity",
                value=0.98,
                false_reject_rate=0.03,
                interval=(0.01, 0.06),
                num_fresh=200,
            ),
        ),
        "reference_counts": {"train_images": 400, "holdout_images": 90},
        "false_reject_budget": 0.05,
        "false_reject_rate": 0.03,
        "false_reject_interval": (0.01, 0.06),
        "planted": {"exact": {"recall": 1.0, "low": 0.9, "high": 1.0, "n": 40}},
        "not_covered": ("membership inference against the model",),
        "settings": {},
    }
    report = PrivacyReport(**(body | fields))
    if change_table is not None:
        table = change_table(table)
    inputs = {"candidates": opened.digest, "cohort": COHORT}
    settings = GateSettings(note=digest_of(report.model_dump(mode="json")))
    with open_stage(AuditRef, folder, inputs=inputs, settings=settings) as stage:
        write_json(folder / REPORT_NAME, report.model_dump(mode="json"), private=True)
        write_parquet(folder / "candidates.parquet", table, private=True)
        stage.finish(
            files=[REPORT_NAME, "candidates.parquet"],
            counts={"accepted": int(accepted.sum())},
            verdict=report.verdict,
        )
    return folder


def main() -> None:
    """Release in an own process, for tests that kill it: CANDIDATES AUDIT OUT [MAX_FILE_BYTES [--force]]."""
    import resource
    import sys

    from pipeline.errors import PhosphorError
    from pipeline.release import ReleaseSettings, run_release

    candidates, audit, out = (Path(name) for name in sys.argv[1:4])
    if len(sys.argv) > 4:
        limit = int(sys.argv[4])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    force = "--force" in sys.argv
    try:
        print(run_release(candidates, audit, out, ReleaseSettings(), seed=1, force=force).digest)
    except PhosphorError as error:
        print(f"{type(error).__name__}: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
