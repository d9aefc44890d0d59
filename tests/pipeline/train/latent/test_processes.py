"""Several processes train an autoencoder and encode as one does, up to rounding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from pipeline.artifacts.checkpoint import load_autoencoder
from pipeline.artifacts.cohort import Cohort
from pipeline.distributed.cpu_threads import threads
from pipeline.records import CohortRef
from pipeline.train import TrainSettings, run_train
from tests.jobs import run_job
from tests.pipeline.train.latent.test_sources import FIELDS, LATENT

# Three shards, so that each of two processes encodes one at least.
PROGRAM = """
import json, sys
from pathlib import Path
from pipeline.records import CohortRef
from pipeline.stage import load_reference
from pipeline.train import TrainSettings, run_train
from pipeline.train.latent import moments
moments.SHARD_ROWS = 48
cohort = load_reference(CohortRef, Path(sys.argv[1]))
made = run_train(cohort, Path(sys.argv[2]), TrainSettings(**json.loads(sys.argv[3])), seed=4)
print(made.digest)
"""
CHANGES = {**FIELDS, "num_steps": 3, "grid_every_steps": 0, "latent": {**LATENT, "batch_size": 7}}


def test_two_processes_train_and_encode_what_one_does(tiny_cohort_16: CohortRef, tmp_path: Path) -> None:
    alone = run_train(tiny_cohort_16, tmp_path / "alone", TrainSettings(**CHANGES), seed=4)
    out = tmp_path / "job"
    done = run_job(PROGRAM, [str(tiny_cohort_16.path), str(out), json.dumps(CHANGES, default=dict)])
    assert [process.returncode for process in done] == [0, 0], [process.stderr for process in done]
    assert done[0].stdout.splitlines()[-1] == done[1].stdout.splitlines()[-1]
    assert len(list((out / "latents").glob("moments-*.npy"))) == 3

    single, joint = load_autoencoder(alone.path), load_autoencoder(out)
    assert single is not None
    assert joint is not None
    cohort = Cohort(tiny_cohort_16.path)
    images = torch.from_numpy(cohort.images(cohort.rows("val")))
    first, second = single.moments(images), joint.moments(images)
    # The gradients of the parts are added up in another order.
    assert float((first - second).norm() / first.norm()) < 1e-3
    assert torch.allclose(single.scale, joint.scale, rtol=1e-3)
    stored = np.concatenate([np.load(path) for path in sorted((out / "latents").glob("moments-*.npy"))])
    train_images = torch.from_numpy(cohort.images(cohort.rows("train")))
    # Each process of the job has one thread, and another number of them rounds differently.
    with threads(1):
        assert np.array_equal(stored, joint.moments(train_images).half().numpy())
