"""Every candidate depends on its class, index and seed alone, and every draw survives a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.noise import candidate_seed
from pipeline.artifacts.candidates import Candidates
from pipeline.artifacts.checkpoint import load_denoiser, read_checkpoint_info
from pipeline.edit import EditSettings, run_edit
from pipeline.errors import DataError, OutputExistsError, TamperedError, UsageError
from pipeline.records import CandidatesRef, CheckpointRef, CohortRef
from pipeline.sample import SampleSettings, run_sample
from pipeline.sample.draw import Candidate, draw_candidates, list_candidates
from pipeline.stage import load_reference
from pipeline.storage import digest_files, digest_of, read_json, write_json
from pipeline.train import TrainSettings, run_train
from tests import tiny
from tests.cohorts import write_cohort

REPOSITORY = Path(__file__).resolve().parents[3]
FIELDS = {"per_class": 10, "overdraw": 1.25, "num_steps": 4, "batch_size": 8, "shard_size": 17}
SETTINGS = SampleSettings(**FIELDS)


def train(cohort: CohortRef, out: Path, precision: str = "fp32", num_steps: int = 30) -> CheckpointRef:
    settings = TrainSettings(
        **{**tiny.TRAIN, "precision": precision},
        num_steps=num_steps,
        learning_rate=4e-3,
    )
    return run_train(cohort, out, settings, seed=2)


@pytest.fixture(scope="module")
def checkpoint(tiny_cohort_16: CohortRef, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    return train(tiny_cohort_16, tmp_path_factory.mktemp("sample") / "checkpoint")


@pytest.fixture(scope="module")
def drawn(checkpoint: CheckpointRef, tmp_path_factory: pytest.TempPathFactory) -> CandidatesRef:
    return run_sample(checkpoint, tmp_path_factory.mktemp("sample") / "candidates", SETTINGS, seed=9)


def test_candidates_hold_what_was_asked(checkpoint: CheckpointRef, drawn: CandidatesRef) -> None:
    candidates = Candidates(drawn.path)
    table = candidates.table
    assert drawn.counts == {"candidates": 39, "classes": 3, "per_class": 10}
    assert len(candidates) == 39
    assert table["class"].tolist() == ["disc"] * 13 + ["line"] * 13 + ["ring"] * 13
    assert table["index"].tolist() == list(range(13)) * 3
    assert table["sample_id"].is_unique
    assert table["seed"].tolist() == [
        candidate_seed(9, label, index) for label in range(3) for index in range(13)
    ]
    assert set(table["sampler"]) == {"dpmpp_2m"}
    assert set(table["num_steps"]) == {4}
    assert set(table["checkpoint_digest"]) == {checkpoint.digest}
    pixels = candidates.take(list(range(39)))
    assert pixels.shape == (39, 1, 16, 16)
    assert pixels.dtype == np.uint8
    assert len(np.unique(pixels.reshape(39, -1), axis=0)) == 39
    # Whole batches: 17 asked, 16 a file.
    assert [len(np.load(path)) for path in sorted(drawn.path.glob("pixels-*.npy"))] == [16, 16, 7]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_candidate_made_alone_equals_the_one_made_in_the_batch(
    tiny_cohort_16: CohortRef, tmp_path: Path, precision: str
) -> None:
    made = train(tiny_cohort_16, tmp_path / "checkpoint", precision, num_steps=5)
    whole = Candidates(run_sample(made, tmp_path / "candidates", SETTINGS, seed=9).path)
    denoiser, _ = load_denoiser(made.path)
    for row in (0, 5, 17, 38):
        record = whole.table.iloc[row]
        alone = Candidate(int(record["label"]), int(record["index"]), int(record["seed"]))
        pixels = draw_candidates(denoiser, [alone], SETTINGS, bit_depth=8)
        assert np.array_equal(pixels, whole.take([row]))


def test_files_do_not_depend_on_shards_but_images_do_on_the_seed(
    checkpoint: CheckpointRef, drawn: CandidatesRef, tmp_path: Path
) -> None:
    everything = list(range(39))
    first = Candidates(drawn.path).take(everything)
    other_shards = SampleSettings(**{**FIELDS, "shard_size": 8})
    again = Candidates(run_sample(checkpoint, tmp_path / "a", other_shards, seed=9).path)
    assert np.array_equal(again.take(everything), first)
    other_seed = Candidates(run_sample(checkpoint, tmp_path / "b", SETTINGS, seed=10).path)
    assert not np.array_equal(other_seed.take(everything), first)


def test_a_class_drawn_alone_gets_the_same_candidates(
    checkpoint: CheckpointRef, drawn: CandidatesRef, tmp_path: Path
) -> None:
    ring = Candidates(run_sample(checkpoint, tmp_path / "c", SETTINGS, seed=9, classes=["ring"]).path)
    assert ring.table["label"].tolist() == [2] * 13
    assert np.array_equal(ring.take(list(range(13))), Candidates(drawn.path).take(list(range(26, 39))))


def test_kill_in_the_middle_ends_in_the_same_bytes(
    checkpoint: CheckpointRef, drawn: CandidatesRef, tmp_path: Path
) -> None:
    out = tmp_path / "candidates"
    # Killed after the first shard appeared and while the second lies written but not yet renamed.
    program = """
import os, signal, sys, json
from pathlib import Path
from pipeline.records import CheckpointRef
from pipeline.sample import SampleSettings, run_sample
from pipeline.stage import load_reference
replace = Path.replace
def dying(self, target):
    if str(target).endswith("pixels-00001.npy"): os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = dying
run_sample(load_reference(CheckpointRef, Path(sys.argv[1])), Path(sys.argv[2]),
           SampleSettings(**json.loads(sys.argv[3])), seed=9)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(checkpoint.path), str(out), json.dumps(FIELDS)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    kept = out / "pixels-00000.npy"
    first_made = kept.stat().st_mtime_ns
    assert not (out / "pixels-00001.npy").exists()
    resumed = run_sample(checkpoint, out, SETTINGS, seed=9)
    assert kept.stat().st_mtime_ns == first_made
    assert resumed.digest == drawn.digest
    for path in drawn.path.glob("[pc]*.*"):
        assert (out / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("sampler", ["heun", "ddim"])
def test_every_sampler_and_guidance_can_be_chosen(
    checkpoint: CheckpointRef, drawn: CandidatesRef, tmp_path: Path, sampler: str
) -> None:
    settings = SampleSettings(per_class=2, num_steps=5, sampler=sampler, guidance_scale=2.0, batch_size=8)
    table = Candidates(run_sample(checkpoint, tmp_path / "c", settings, seed=9).path).table
    assert set(table["sampler"]) == {sampler}
    assert set(table["guidance_scale"]) == {2.0}


def test_guidance_changes_the_images(checkpoint: CheckpointRef) -> None:
    denoiser, _ = load_denoiser(checkpoint.path)
    one = list_candidates([0], 4, 1)
    plain, strong = (
        draw_candidates(denoiser, one, SETTINGS.model_copy(update={"guidance_scale": scale}), bit_depth=8)
        for scale in (1.0, 4.0)
    )
    assert not np.array_equal(plain, strong)


def test_sixteen_bit_cohorts_give_sixteen_bit_candidates(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 65536, (40, 1, 16, 16), dtype=np.uint16)
    cohort = write_cohort(tmp_path / "cohort", pixels=pixels, labels=np.arange(40) // 2 % 2)
    made = train(cohort, tmp_path / "checkpoint", num_steps=3)
    candidates = Candidates(run_sample(made, tmp_path / "candidates", SETTINGS, seed=0).path)
    stored = candidates.take([0, 1])
    assert stored.dtype == np.uint16
    assert len(np.unique(stored)) > 256


def test_finished_candidates_are_reused_and_others_refused(
    checkpoint: CheckpointRef, drawn: CandidatesRef
) -> None:
    assert run_sample(checkpoint, drawn.path, SETTINGS, seed=9) == drawn
    with pytest.raises(OutputExistsError, match="--force"):
        run_sample(checkpoint, drawn.path, SETTINGS, seed=9, classes=["line"])


def test_checkpoint_of_another_cohort_is_refused(checkpoint: CheckpointRef, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="another cohort") as caught:
        run_sample(checkpoint, tmp_path / "c", SETTINGS, seed=0, cohort_digest="0" * 64)
    assert caught.value.exit_code == 3


def test_tampered_checkpoint_is_refused(tiny_cohort_16: CohortRef, tmp_path: Path) -> None:
    made = train(tiny_cohort_16, tmp_path / "checkpoint", num_steps=2)
    weights = made.path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-10] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(TamperedError):
        run_sample(made, tmp_path / "c", SETTINGS, seed=0)
    assert not list((tmp_path / "c").glob("pixels-*"))


def test_a_checkpoint_that_numbers_its_classes_otherwise_is_only_started_from(
    checkpoint: CheckpointRef, tiny_cohort_16: CohortRef, tmp_path: Path
) -> None:
    """An earlier version trained it, on labels in the manifest's order."""
    other = tmp_path / "other"
    shutil.copytree(checkpoint.path, other)
    for name, change in (
        ("checkpoint.json", lambda body: {**body, "classes": ["ring", "disc", "line"]}),
        ("reference.json", lambda body: {**body, "files": (files := digest_files(other, list(body["files"]))),
                                         "digest": digest_of(files)}),
    ):  # fmt: skip
        write_json(other / name, change(read_json(other / name, role="checkpoint")))
    old = load_reference(CheckpointRef, other)
    with pytest.raises(DataError, match=r"ring, disc, line.*train\.init_from") as caught:
        run_sample(old, tmp_path / "c", SETTINGS, seed=0)
    assert caught.value.exit_code == 3
    with pytest.raises(DataError, match="sorted names"):
        run_edit(old, tiny_cohort_16.path, tmp_path / "e", EditSettings(to_class="ring", mask=None), seed=0)
    settings = TrainSettings(**tiny.TRAIN, num_steps=2, init_from=other)
    begun = run_train(tiny_cohort_16, tmp_path / "begun", settings, seed=2)
    assert read_checkpoint_info(begun.path).classes == ("disc", "line", "ring")


@pytest.mark.parametrize("classes", [["heart"], [], ["line", "line"]])
def test_wrong_classes_are_refused_with_the_choice(
    checkpoint: CheckpointRef, tmp_path: Path, classes: list[str]
) -> None:
    with pytest.raises(UsageError, match="disc") as caught:
        run_sample(checkpoint, tmp_path / "c", SETTINGS, seed=0, classes=classes)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("per_class", "overdraw", "expected"), [(100, 1.1, 110), (10, 1.25, 13), (7, 1.0, 7), (1, 1.01, 2)]
)
def test_overdraw_rounds_up_exactly(per_class: int, overdraw: float, expected: int) -> None:
    assert SampleSettings(per_class=per_class, overdraw=overdraw).candidates_per_class == expected


def test_shard_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="shard_size"):
        SampleSettings(batch_size=64, shard_size=63)
