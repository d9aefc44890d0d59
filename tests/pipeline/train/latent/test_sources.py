"""Latent training: an autoencoder first, moments stored once, latents drawn anew, and no kill is noticed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.checkpoint import read_tensors
from models.latent.autoencoder import Autoencoder
from models.noise import stream_seed
from pipeline.artifacts.checkpoint import load_autoencoder, load_denoiser, read_checkpoint_info
from pipeline.artifacts.cohort import Cohort
from pipeline.errors import DataError, RecipeError, TamperedError, TrainingError
from pipeline.recipe import resolve_recipe
from pipeline.records import CheckpointRef, CohortRef
from pipeline.stage import digest_files, digest_of
from pipeline.train import TrainSettings, run_train
from pipeline.train.latent import moments
from pipeline.train.latent.autoencoder import AutoencoderTrainer
from pipeline.train.latent.moments import MomentShards, encode_rows
from pipeline.train.latent.sources import LatentSource
from tests import tiny

REPOSITORY = Path(__file__).resolve().parents[4]
LATENT: Mapping[str, Any] = {
    "enabled": True,
    "channels": (8, 16),
    "patch_size": 2,
    "num_norm_groups": 8,
    "num_steps": 9,
    "warmup_steps": 2,
}
FIELDS: Mapping[str, Any] = {
    **tiny.TRAIN,
    "num_steps": 6,
    "warmup_steps": 3,
    "attention": (False, False),
    "checkpoint_every_steps": 3,
    "grid_every_steps": 6,
    "latent": LATENT,
}
SETTINGS = TrainSettings(**FIELDS)
SHARD_ROWS = 48


@pytest.fixture(scope="module")
def undisturbed(tiny_cohort_16: CohortRef, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "SHARD_ROWS", SHARD_ROWS)
        return run_train(tiny_cohort_16, tmp_path_factory.mktemp("latents") / "c", SETTINGS, seed=4)


@pytest.fixture(scope="module")
def source(tiny_cohort_16: CohortRef, undisturbed: CheckpointRef) -> LatentSource:
    cohort = Cohort(tiny_cohort_16.path)
    autoencoder = load_autoencoder(undisturbed.path)
    assert autoencoder is not None
    return LatentSource(cohort, shards_of(undisturbed.path), autoencoder)


def shards_of(checkpoint: Path) -> MomentShards:
    paths = sorted((checkpoint / "latents").glob("moments-*.npy"))
    return MomentShards(checkpoint / "latents", [len(np.load(path)) for path in paths], (8, 4, 4))


def drawn(source: LatentSource, rows: Any, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(stream_seed(4, "step", step))
    read = torch.from_numpy(source.read(np.asarray(rows, dtype=np.int64)))
    return source.clean(read, generator, count=len(read), share=slice(None))


def run_and_die(cohort: CohortRef, out: Path, moments_of_death: list[str]) -> list[list[str]]:
    """Train in processes that are killed (SIGKILL) one after the other, each at a moment given as statements.

    Returns:
        The files that lie in `out` after each death.
    """
    program = f"""
import os, signal, sys, json
from pathlib import Path
from pipeline.records import CohortRef
from pipeline.stage import load_reference
from pipeline.train import TrainSettings, run_train
import monai.networks.nets, pipeline.train.loop
import pipeline.train.latent.autoencoder as autoencoder, pipeline.train.latent.moments as moments
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
moments.SHARD_ROWS = {SHARD_ROWS}
replace = Path.replace
def replacing(self, target):
    if str(target).endswith(dies_at): die()
    return replace(self, target)
cohort, out = load_reference(CohortRef, Path(sys.argv[1])), Path(sys.argv[2])
# Forked before anything is computed: the libraries take longer to import than the training takes.
for moment in json.loads(sys.argv[4]):
    child = os.fork()
    if not child:
        exec(moment)
        run_train(cohort, out, TrainSettings(**json.loads(sys.argv[3])), seed=4)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL: sys.exit(1)
    print(json.dumps(sorted(str(path.relative_to(out)) for path in out.rglob("*"))))
"""
    arguments = [str(cohort.path), str(out), json.dumps(FIELDS, default=dict), json.dumps(moments_of_death)]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# In the middle of a step of the autoencoder, after the states of steps 3 and 6.
MID_STEP = """
step = autoencoder.AutoencoderTrainer.step
def dying(self, number):
    if number == 7: self.optimizer.step = die
    return step(self, number)
autoencoder.AutoencoderTrainer.step = dying
"""
# The second shard is written whole, but not yet renamed.
MID_ENCODING = "dies_at = 'moments-00001.npy'; Path.replace = replacing"
# Everything is encoded and scaled; the denoiser has saved nothing yet.
MID_DENOISER = "dies_at = 'state/step-000000003.safetensors'; Path.replace = replacing"


def test_kills_while_the_autoencoder_learns_and_encodes_end_in_the_undisturbed_checkpoint(
    tiny_cohort_16: CohortRef, undisturbed: CheckpointRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "checkpoint"
    learning, encoding, denoising = run_and_die(tiny_cohort_16, out, [MID_STEP, MID_ENCODING, MID_DENOISER])
    states = [name for name in learning if name.startswith("autoencoder/state/step-")]
    assert states == [f"autoencoder/state/step-00000000{step}.safetensors" for step in (3, 6)]
    assert "latents/moments-00000.npy" in encoding
    assert not {"latents/moments-00001.npy", "autoencoder.safetensors"} & set(encoding)
    assert {"latents/moments-00002.npy", "autoencoder.safetensors"} <= set(denoising)
    kept = [out / "latents" / "moments-00000.npy", out / "autoencoder.safetensors"]
    made = [path.stat().st_mtime_ns for path in kept]

    monkeypatch.setattr(moments, "SHARD_ROWS", SHARD_ROWS)
    resumed = run_train(tiny_cohort_16, out, SETTINGS, seed=4)
    assert resumed.digest == undisturbed.digest
    assert [path.stat().st_mtime_ns for path in kept] == made
    for name in ("model.safetensors", "autoencoder.safetensors", "latents/moments-00002.npy"):
        assert (out / name).read_bytes() == (undisturbed.path / name).read_bytes(), name
    # A file that the kill left unfinished is private too, and nothing is read from it.
    assert all(path.stat().st_mode & 0o077 == 0 for path in out.rglob("*") if path.name != ".lock")


@pytest.mark.parametrize("damage", ["state", "autoencoder", "shard", "index"])
def test_damage_behind_a_finished_autoencoder_is_made_good(
    tiny_cohort_16: CohortRef,
    undisturbed: CheckpointRef,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    monkeypatch.setattr(moments, "SHARD_ROWS", SHARD_ROWS)
    out = tmp_path / "checkpoint"
    shutil.copytree(undisturbed.path, out)
    (out / "reference.json").unlink()
    damaged = {
        "state": out / "autoencoder" / "state" / "step-000000009.safetensors",
        "autoencoder": out / "autoencoder.safetensors",
        "shard": out / "latents" / "moments-00001.npy",
        "index": out / "latents" / "latents.json",
    }[damage]
    damaged.write_bytes(damaged.read_bytes()[:40])
    if damage == "state":
        (out / "autoencoder.safetensors").unlink()
    assert run_train(tiny_cohort_16, out, SETTINGS, seed=4).digest == undisturbed.digest


def test_stored_moments_equal_a_fresh_encoding(tiny_cohort_16: CohortRef, source: LatentSource) -> None:
    cohort = Cohort(tiny_cohort_16.path)
    assert source.autoencoder is not None
    rows = cohort.rows("train")[[0, 50, 3, 47, -1, 48]]
    stored = source.read(rows)
    assert stored.dtype == np.float16
    assert stored.shape == (6, 8, 4, 4)
    assert np.array_equal(stored, encode_rows(source.autoencoder, cohort, rows))
    images = torch.from_numpy(cohort.images(rows))
    with torch.no_grad():
        mean, logvar = source.autoencoder.encode(images)
    assert torch.allclose(
        torch.from_numpy(stored).float(), torch.cat([mean, logvar], 1), rtol=2e-3, atol=1e-3
    )


def test_scans_outside_the_train_split_are_encoded_when_asked_for(
    tiny_cohort_16: CohortRef, source: LatentSource
) -> None:
    cohort = Cohort(tiny_cohort_16.path)
    assert source.autoencoder is not None
    rows = cohort.rows("holdout")[:3]
    assert np.array_equal(source.read(rows), encode_rows(source.autoencoder, cohort, rows))


def test_latents_have_the_deviation_that_the_denoiser_expects(
    tiny_cohort_16: CohortRef, undisturbed: CheckpointRef, source: LatentSource
) -> None:
    rows = Cohort(tiny_cohort_16.path).rows("train")
    latents = drawn(source, rows, step=0)
    assert latents.shape == (len(rows), 4, 4, 4)
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=0.03)
    assert torch.allclose(latents.std((0, 2, 3)), torch.full((4,), SETTINGS.sigma_data), rtol=0.03)
    # Before the sampling noise is drawn, the statistics hold to rounding.
    mean, std = shards_of(undisturbed.path).statistics()
    encoder = source.autoencoder
    assert encoder is not None
    assert torch.equal(encoder.shift, mean)
    assert torch.allclose(encoder.scale * SETTINGS.sigma_data, std)


def test_sampling_noise_is_new_every_step_and_the_same_when_a_step_is_done_again(
    tiny_cohort_16: CohortRef, source: LatentSource
) -> None:
    batch = Cohort(tiny_cohort_16.path).rows("train")[:4]
    first, second, again = (drawn(source, batch, step) for step in (3, 4, 3))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    encoder = source.autoencoder
    assert encoder is not None
    mean, logvar = torch.from_numpy(source.read(batch)).float().chunk(2, dim=1)
    noise = (encoder.denormalise(first) - mean) / (0.5 * logvar).exp()
    assert float(noise.std()) == pytest.approx(1.0, abs=0.15)


def test_checkpoint_describes_and_holds_the_autoencoder(undisturbed: CheckpointRef) -> None:
    info = read_checkpoint_info(undisturbed.path)
    assert info.autoencoder is not None
    assert info.autoencoder["image_size"] == [16, 16]
    assert info.network["image_size"] == [4, 4]
    assert info.network["in_channels"] == 4
    denoiser, _ = load_denoiser(undisturbed.path)
    assert denoiser.sample_shape == (4, 4, 4)
    autoencoder = load_autoencoder(undisturbed.path)
    assert isinstance(autoencoder, Autoencoder)
    assert not autoencoder.training
    assert (undisturbed.path / "grids" / "step-000006.png").is_file()


def test_a_checkpoint_of_pixels_has_no_autoencoder(tiny_cohort_16: CohortRef, tmp_path: Path) -> None:
    settings = TrainSettings(**{**FIELDS, "num_steps": 1, "latent": {}, "grid_every_steps": 0})
    made = run_train(tiny_cohort_16, tmp_path / "c", settings, seed=0)
    assert load_autoencoder(made.path) is None
    assert not (made.path / "autoencoder.safetensors").exists()
    assert not (made.path / "latents").exists()


def test_a_changed_autoencoder_is_tampering(undisturbed: CheckpointRef, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(undisturbed.path, copy)
    content = bytearray((copy / "autoencoder.safetensors").read_bytes())
    content[-10] ^= 1
    (copy / "autoencoder.safetensors").write_bytes(bytes(content))
    for load in (load_denoiser, load_autoencoder):
        with pytest.raises(TamperedError, match=r"autoencoder\.safetensors") as caught:
            load(copy)
        assert caught.value.exit_code == 3


def sign(checkpoint: Path) -> None:
    """Write the digests anew, as one would who changes files and knows the format."""
    body = json.loads((checkpoint / "reference.json").read_text())
    body["files"] = digest_files(checkpoint, list(body["files"]))
    body["digest"] = digest_of(body["files"])
    (checkpoint / "reference.json").write_text(json.dumps(body))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": [8, 8]}, "autoencoder.safetensors"),
        ({"latent_channels": 5}, "fit"),
        ({"image_size": [32, 32]}, "image size"),
        ({"levels": 2}, "levels"),
        ({"patch_size": "2"}, "patch_size"),
    ],
)
def test_an_autoencoder_that_does_not_fit_is_refused(
    undisturbed: CheckpointRef, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(undisturbed.path, copy)
    info = json.loads((copy / "checkpoint.json").read_text())
    info["autoencoder"] |= change
    (copy / "checkpoint.json").write_text(json.dumps(info))
    sign(copy)
    with pytest.raises(DataError, match=message) as caught:
        load_denoiser(copy)
        load_autoencoder(copy)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\xff" * 4000])
def test_a_corrupted_autoencoder_file_is_refused(
    undisturbed: CheckpointRef, tmp_path: Path, content: bytes
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(undisturbed.path, copy)
    (copy / "autoencoder.safetensors").write_bytes(content)
    sign(copy)
    with pytest.raises(DataError, match="autoencoder") as caught:
        load_autoencoder(copy)
    assert caught.value.exit_code == 3


def test_augmentation_and_latents_contradict_each_other() -> None:
    body = {"train": {"augment": 0.1, "latent": {"enabled": True}}}
    with pytest.raises(RecipeError, match=r"train\.augment.*train\.latent\.enabled") as caught:
        resolve_recipe(body)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "change", [{"channels": (8, 12)}, {"num_steps": 0}, {"patch_size": 0}, {"kl_weight": float("nan")}]
)
def test_latent_settings_that_cannot_work_are_refused_when_read(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        TrainSettings(**{**FIELDS, "latent": {**LATENT, **change}})


def test_scans_too_small_for_latents_are_refused_with_the_remedy(
    tiny_cohort_16: CohortRef, tmp_path: Path
) -> None:
    settings = TrainSettings(**{**FIELDS, "latent": {**LATENT, "patch_size": 4}})
    with pytest.raises(DataError, match=r"16x16.*only 2x2.*train\.latent\.patch_size"):
        run_train(tiny_cohort_16, tmp_path / "c", settings, seed=0)


def test_an_autoencoder_that_runs_away_stops_and_keeps_the_last_good_state(
    tiny_cohort_16: CohortRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = AutoencoderTrainer.step

    def run_away(self: AutoencoderTrainer, number: int) -> Any:
        if number == 4:
            self.parameters[0].data.fill_(float("inf"))
        return step(self, number)

    monkeypatch.setattr(AutoencoderTrainer, "step", run_away)
    with pytest.raises(TrainingError, match=r"state of step 3 is kept.*latent\.warmup_steps"):
        run_train(tiny_cohort_16, tmp_path / "c", SETTINGS, seed=4)
    newest = sorted((tmp_path / "c" / "autoencoder" / "state").iterdir())[-1]
    assert read_tensors(newest).metadata["step"] == 3


def test_a_longer_training_reconstructs_better(
    tiny_cohort_16: CohortRef, undisturbed: CheckpointRef, tmp_path: Path
) -> None:
    latent = {**LATENT, "num_steps": 60, "learning_rate": 8e-3}
    settings = TrainSettings(**{**FIELDS, "num_steps": 1, "grid_every_steps": 0, "latent": latent})
    longer = run_train(tiny_cohort_16, tmp_path / "c", settings, seed=4)
    assert len((longer.path / "autoencoder" / "progress.csv").read_text().splitlines()) == 1 + 6
    cohort = Cohort(tiny_cohort_16.path)
    unseen = torch.from_numpy(cohort.images(cohort.rows("val")))

    def error(checkpoint: Path) -> float:
        autoencoder = load_autoencoder(checkpoint)
        assert autoencoder is not None
        with torch.no_grad():
            return float((autoencoder.decode(autoencoder.encode(unseen)[0]) - unseen).square().mean())

    assert error(longer.path) < 0.75 * error(undisturbed.path)
