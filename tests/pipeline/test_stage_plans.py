"""What a stage says beforehand is what it then does: every stage is run, and its plan held to its record."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.cost.estimate import Foreseen, StagePlan
from pipeline.edit import EditSettings, plan_edit, run_edit
from pipeline.errors import DataError
from pipeline.evaluate import EvaluateSettings, run_evaluate
from pipeline.evaluate.plan import plan_evaluate
from pipeline.ingest import run_ingest
from pipeline.ingest.plan import plan_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.privacy import run_audit
from pipeline.privacy.plan import plan_audit
from pipeline.records import CohortRef, Policy, Reference
from pipeline.release import ReleaseSettings, run_release
from pipeline.release.plan import plan_release
from pipeline.sample import SampleSettings, run_sample
from pipeline.sample.plan import plan_sample
from pipeline.stage import REFERENCE_NAME, State
from pipeline.storage import read_json
from pipeline.train import TrainSettings, run_train
from pipeline.train.plan import plan_train
from tests import tiny
from tests.pipeline.ingest.scans import manifest_of, write_images
from tests.pipeline.privacy.sets import QUICK

SEED = 3
TRAIN = TrainSettings(**tiny.TRAIN, num_steps=2)
SAMPLE = SampleSettings(per_class=4, overdraw=1.5, num_steps=2, batch_size=6, shard_size=6)
EDIT = EditSettings(to_class="ring", per_class=4, num_steps=2, batch_size=6, shard_size=6)
RELEASE = ReleaseSettings(policy=Policy.RESEARCH)
EVALUATE = EvaluateSettings(seeds=1, ratios=(1.0,), num_steps=4, encoder_steps=4, num_resamples=100)


@dataclass(frozen=True)
class Made:
    """An output, and what makes the plan of the same: with the seed, from references or from paths."""

    reference: Reference
    plan: Callable[[int, bool], StagePlan[Any]]


@pytest.fixture(scope="module")
def made(tiny_cohort_16: CohortRef, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """Run every stage, each on what the one before has made."""
    folder = tmp_path_factory.mktemp("plans")
    write_images(folder)
    manifest, small = manifest_of(folder), IngestSettings(image_size=16, workers=1, holdout_share=0.2)
    ingested = run_ingest(manifest, folder / "cohort", small)
    cohort = tiny_cohort_16
    checkpoint = run_train(cohort.path, folder / "checkpoint", TRAIN, seed=SEED)
    candidates = run_sample(checkpoint.path, folder / "candidates", SAMPLE, seed=SEED)
    edits = run_edit(checkpoint.path, cohort, folder / "edits", EDIT, seed=SEED)
    audit = run_audit(candidates, cohort, folder / "audit", QUICK, seed=SEED, checkpoint=checkpoint)
    release = run_release(candidates, audit, folder / "release", RELEASE, seed=SEED)
    evaluation = run_evaluate(release, cohort, folder / "evaluation", EVALUATE, seed=SEED)

    def given(reference: Reference, by_path: bool) -> Any:
        return reference.path if by_path else reference

    return {
        "ingest": Made(ingested, lambda _seed, _by_path: plan_ingest(manifest, ingested.path, small)),
        "train": Made(checkpoint, lambda seed, path: plan_train(given(cohort, path), TRAIN, seed=seed)),
        "sample": Made(
            candidates, lambda seed, path: plan_sample(given(checkpoint, path), SAMPLE, seed=seed)
        ),
        "edit": Made(
            edits,
            lambda seed, path: plan_edit(given(checkpoint, path), given(cohort, path), EDIT, seed=seed),
        ),
        "audit": Made(
            audit,
            lambda seed, path: plan_audit(
                given(candidates, path),
                given(cohort, path),
                QUICK,
                seed=seed,
                checkpoint=given(checkpoint, path),
            ),
        ),
        "release": Made(
            release,
            lambda seed, path: plan_release(given(candidates, path), given(audit, path), RELEASE, seed=seed),
        ),
        "evaluate": Made(
            evaluation,
            lambda seed, path: plan_evaluate(given(release, path), given(cohort, path), EVALUATE, seed=seed),
        ),
    }


STAGES = ("ingest", "train", "sample", "edit", "audit", "release", "evaluate")


@pytest.mark.parametrize("by_path", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_a_plan_names_the_inputs_that_the_stage_has_recorded(
    made: dict[str, Made], stage: str, by_path: bool
) -> None:
    reference = made[stage].reference
    wanted = made[stage].plan(SEED, by_path).wanted
    body = read_json(reference.path / wanted.recorded_in, role=stage)
    assert wanted.digest == body["inputs_digest"] == reference.inputs_digest
    if stage != "release":
        assert wanted.described == {name: body[name] for name in wanted.described}
    assert wanted.state(reference.path) is State.REUSE
    assert wanted.state(reference.path, force=True) is State.REUSE


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "ingest"])
def test_another_seed_is_another_output(made: dict[str, Made], tmp_path: Path, stage: str) -> None:
    reference = made[stage].reference
    wanted = made[stage].plan(SEED + 1, False).wanted
    assert wanted.state(reference.path) is State.REFUSE
    assert wanted.state(reference.path, force=True) is State.REPLACE
    assert wanted.state(tmp_path / "elsewhere") is State.NEW


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "release"])
def test_an_output_that_was_cut_short_is_resumed(made: dict[str, Made], tmp_path: Path, stage: str) -> None:
    out = shutil.copytree(made[stage].reference.path, tmp_path / "out")
    (out / REFERENCE_NAME).unlink()
    assert made[stage].plan(SEED, False).wanted.state(out) is State.RESUME


@pytest.mark.parametrize("stage", STAGES)
def test_an_estimate_counts_something_and_foresees_what_comes_out(made: dict[str, Made], stage: str) -> None:
    plan, counts = made[stage].plan(SEED, True), made[stage].reference.counts
    cost, foreseen = plan.estimate(), plan.foresee()
    assert cost.seconds > 0 and cost.disk_bytes > 0 and cost.memory_bytes > 2**20
    assert foreseen.work.image_size == (16, 16)
    expected = {
        "sample": counts.get("candidates"),
        "edit": counts.get("candidates"),
        "release": counts.get("images"),
    }.get(stage)
    assert expected is None or foreseen.num_images == expected


def test_a_stage_after_one_that_is_not_there_yet_knows_no_output_as_its_own(made: dict[str, Made]) -> None:
    trained = made["train"].plan(SEED, False).foresee()
    plan = plan_sample(trained, SAMPLE, seed=SEED)
    assert plan.wanted.inputs == {"checkpoint": None}
    assert plan.wanted.state(made["sample"].reference.path) is State.REFUSE
    drawn = plan.foresee()
    assert (drawn.num_images, drawn.num_asked) == (18, 12)
    assert isinstance(drawn, Foreseen) and plan.estimate().seconds > 0


def test_a_reference_to_what_lies_there_no_longer_is_refused(made: dict[str, Made], tmp_path: Path) -> None:
    other = {"digest": "0" * 64}
    candidates, audit = made["sample"].reference, made["audit"].reference
    with pytest.raises(DataError, match="another candidates than the one asked for"):
        run_release(candidates.model_copy(update=other), audit.path, tmp_path / "out", RELEASE, seed=SEED)
    with pytest.raises(DataError, match="another audit than the one asked for"):
        run_release(candidates.path, audit.model_copy(update=other), tmp_path / "out", RELEASE, seed=SEED)
    assert not (tmp_path / "out").exists()
