"""Several processes share an audit: each searches a part, and the report is that of one process."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from pipeline.artifacts.cohort import Cohort
from pipeline.privacy import run_audit
from pipeline.privacy.membership.settings import MembershipSettings
from pipeline.privacy.partial_results import FOLDER_NAME
from pipeline.privacy.search.views import Found, Views
from pipeline.records import AuditRef, CheckpointRef
from pipeline.sample import SampleSettings, run_sample
from pipeline.train import TrainSettings, run_train
from tests import tiny
from tests.jobs import run_job
from tests.pipeline.privacy.sets import QUICK

PIECE = 40
FAST = MembershipSettings(
    sigmas=(0.5,), known_scans=64, permutations=1_000, resamples=100, min_patients=20, batch_size=16
)
# Bytes are equal at a fixed number of threads.
SETTINGS = QUICK.model_copy(update={"num_threads": 1, "membership": FAST})

WORK = """
import json, os, signal, sys
from pathlib import Path
from pipeline.privacy import partial_results, run_audit
from pipeline.privacy.membership import attack
from pipeline.privacy.settings import AuditSettings
from pipeline.privacy.search.views import Views
partial_results.QUERIES_A_PIECE = {piece}
searched, scored, search, score = [], [], Views.search, attack.attack_scores
def searching(self, images, own=None):
    if len(searched) == {limit} and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    searched.append(len(images))
    return search(self, images, own)
def scoring(denoiser, clean, *rest):
    scored.append(len(clean))
    return score(denoiser, clean, *rest)
Views.search, attack.attack_scores = searching, scoring
candidates, cohort, checkpoint, out, settings = sys.argv[1:]
made = run_audit(
    Path(candidates), Path(cohort), Path(out), AuditSettings(**json.loads(settings)), seed=0,
    checkpoint=Path(checkpoint)
)
print(json.dumps([made.model_dump(mode="json"), len(searched), len(scored)]))
"""


@pytest.fixture(scope="module")
def young(gate_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    """Return a checkpoint that has learnt next to nothing; its candidates lie beside it."""
    settings = TrainSettings.model_validate({**tiny.TRAIN, "num_steps": 2})
    folder = tmp_path_factory.mktemp("young")
    checkpoint = run_train(Cohort(gate_cohort).reference, folder / "checkpoint", settings, seed=0)
    run_sample(checkpoint, folder / "candidates", SampleSettings(per_class=45, num_steps=2), seed=0)
    return checkpoint


class Alone:
    """One process that audits; `searched` are the sizes of the pieces that it searched for."""

    def __init__(self, cohort: Path, checkpoint: CheckpointRef) -> None:
        self.cohort, self.checkpoint = cohort, checkpoint
        self.searched: list[int] = []

    def audit(self, out: Path) -> AuditRef:
        search = Views.search

        def counting(views: Views, images: torch.Tensor, *own: object) -> Found:
            self.searched.append(len(images))
            return search(views, images, *own)  # type: ignore[arg-type]

        candidates = self.checkpoint.path.parent / "candidates"
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("pipeline.privacy.partial_results.QUERIES_A_PIECE", PIECE)
            patched.setattr(Views, "search", counting)
            return run_audit(candidates, self.cohort, out, SETTINGS, seed=0, checkpoint=self.checkpoint.path)

    def arguments(self, out: Path) -> list[str]:
        """What a process of `WORK` is given to audit the same."""
        places = [self.checkpoint.path.parent / "candidates", self.cohort, self.checkpoint.path, out]
        return [*map(str, places), SETTINGS.model_dump_json()]


@pytest.fixture(scope="module")
def whole(
    gate_cohort: Path, young: CheckpointRef, tmp_path_factory: pytest.TempPathFactory
) -> tuple[AuditRef, int]:
    """Return the audit of one process, and how many pieces it searched for."""
    alone = Alone(gate_cohort, young)
    return alone.audit(tmp_path_factory.mktemp("alone") / "audit"), len(alone.searched)


def test_two_processes_share_an_audit_and_write_what_one_does(
    gate_cohort: Path, young: CheckpointRef, whole: tuple[AuditRef, int], tmp_path: Path
) -> None:
    given = Alone(gate_cohort, young).arguments(tmp_path / "audit")
    done = run_job(WORK.format(piece=PIECE, limit=-1), given)
    assert [process.returncode for process in done] == [0, 0], done[0].stderr + done[1].stderr
    said = [json.loads(process.stdout) for process in done]
    assert said[0][0] == said[1][0]
    assert AuditRef(**said[0][0]).digest == whole[0].digest
    assert said[0][1] + said[1][1] == whole[1]
    # Searches for candidates, holdout and planted copies; then scans, by the model and by an untrained one.
    for own, other in zip(said[0][1:], said[1][1:], strict=True):
        assert 0.4 <= own / (own + other) <= 0.6
    assert not (tmp_path / "audit" / FOLDER_NAME).exists()


@pytest.mark.slow
def test_a_killed_job_of_two_goes_on_as_one_process(
    gate_cohort: Path, young: CheckpointRef, whole: tuple[AuditRef, int], tmp_path: Path
) -> None:
    alone, out = Alone(gate_cohort, young), tmp_path / "audit"
    done = run_job(WORK.format(piece=PIECE, limit=1), alone.arguments(out))
    assert done[0].returncode == 1 and done[1].returncode == -signal.SIGKILL
    assert not (out / "reference.json").exists()
    kept = len(list((out / FOLDER_NAME).glob("*.npz")))
    assert kept >= 1
    assert alone.audit(out).digest == whole[0].digest
    assert len(alone.searched) == whole[1] - kept
