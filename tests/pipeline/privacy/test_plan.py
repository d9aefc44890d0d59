"""What an audit says beforehand, of candidates of another generator too, and what an attack adds."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pipeline.cost.estimate import workload_of
from pipeline.cost.pacing import Pace
from pipeline.privacy import plan, run_audit
from pipeline.records import CohortRef
from pipeline.stage import State
from pipeline.train import TrainSettings
from pipeline.train.plan import plan_train
from tests import tiny
from tests.cohorts import CLASSES
from tests.pipeline.privacy.sets import QUICK, fresh


def write_foreign(folder: Path) -> Path:
    """Write drawings as a folder of class-named folders, with one file that is not looked at."""
    pixels, labels = fresh(24, seed=1)
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / CLASSES[int(label)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)
    (folder / "disc" / "movie.gif").write_bytes(b"GIF89a")
    return folder


def test_a_foreign_set_is_known_again_by_its_files(gate_cohort: Path, tmp_path: Path) -> None:
    images, out = write_foreign(tmp_path / "images"), tmp_path / "audit"
    made = run_audit(images, gate_cohort, out, QUICK, seed=2)
    planned = plan.plan_audit(images, gate_cohort, QUICK, seed=2)
    assert planned.wanted.digest == made.inputs_digest
    assert planned.wanted.state(out) is State.REUSE
    assert planned.foresee().num_images == 24
    (images / "disc" / "movie.gif").rename(images / "disc" / "other.gif")
    assert plan.plan_audit(images, gate_cohort, QUICK, seed=2).wanted.state(out) is State.REFUSE


def test_an_attack_on_the_checkpoint_takes_its_time_and_its_memory(
    tiny_cohort: CohortRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_embedding_step", lambda *_arguments: Pace(0.0, 1, 5))
    monkeypatch.setattr(plan, "_query", lambda *_arguments: Pace(0.0, 1, 7))
    monkeypatch.setattr(plan, "denoise_pace", lambda *_arguments: Pace(1.0, 1, 2**30))
    trained = plan_train(tiny_cohort, TrainSettings(**tiny.TRAIN, num_steps=1), seed=0).foresee()
    work = workload_of(tiny_cohort)
    assert work.num_audited > 0
    without, attacked = (plan.estimate_audit(QUICK, work, 10, named) for named in (None, trained))
    assert (without.device_bytes, attacked.device_bytes) == (7, 2**30)
    scans = min(QUICK.membership.known_scans, work.num_train) + work.num_holdout + work.num_audited
    batches = -(-scans // QUICK.membership.batch_size)
    # Twice: the checkpoint, and an untrained network beside it.
    assert attacked.seconds - without.seconds >= 2 * batches
    off = QUICK.model_copy(update={"membership": QUICK.membership.model_copy(update={"enabled": False})})
    assert plan.estimate_audit(off, work, 10, trained).seconds == without.seconds
