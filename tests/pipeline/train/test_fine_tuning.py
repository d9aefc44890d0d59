"""Fine-tuning takes over what another cohort's checkpoint learnt, and refuses what does not fit."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from models.diffusion.denoiser import Denoiser
from models.network.spec import NetworkSpec
from pipeline.artifacts.checkpoint import read_checkpoint_info, read_denoiser
from pipeline.errors import DataError, PhosphorError, TamperedError, UsageError
from pipeline.recipe import Recipe, public_recipe
from pipeline.records import CheckpointRef, CohortRef
from pipeline.train import TrainSettings, run_train
from pipeline.train.fine_tuning import Start, start_digest, start_from
from tests import tiny
from tests.cohorts import write_cohort

FIELDS: Mapping[str, Any] = {
    **tiny.TRAIN,
    "num_steps": 10,
    "batch_size": 16,
    "learning_rate": 4e-3,
    "warmup_steps": 5,
    "attention": (False, False),
    "ema_snapshots": 2,
}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    """Return a checkpoint of 120 steps on discs and bars of 16x16 pixels."""
    folder = tmp_path_factory.mktemp("first")
    cohort = write_cohort(folder / "cohort", image_size=16, num_classes=2)
    return run_train(cohort, folder / "checkpoint", TrainSettings(**{**FIELDS, "num_steps": 120}), seed=1)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> CohortRef:
    """Return a cohort of discs, bars and rings of 24x24 pixels."""
    return write_cohort(tmp_path_factory.mktemp("second") / "cohort", image_size=24, num_scans=120, seed=8)


def first_loss(checkpoint: Path) -> float:
    with (checkpoint / "progress.csv").open() as stream:
        return float(next(csv.DictReader(stream))["loss"])


def test_fine_tuning_starts_at_a_lower_loss_on_a_new_class_and_another_size(
    first: CheckpointRef, second: CohortRef, tmp_path: Path
) -> None:
    scratch = run_train(second, tmp_path / "scratch", TrainSettings(**FIELDS), seed=1)
    settings = TrainSettings(**FIELDS, init_from=first.path)
    tuned = run_train(second, tmp_path / "tuned", settings, seed=1)
    assert first_loss(tuned.path) < 0.8 * first_loss(scratch.path)
    info = read_checkpoint_info(tuned.path)
    assert (info.init_digest, info.classes) == (first.digest, ("disc", "line", "ring"))
    behind = read_checkpoint_info(first.path).cohort_digest
    assert info.earlier_cohorts == (behind,)
    fresh = read_checkpoint_info(scratch.path)
    assert (fresh.init_digest, fresh.earlier_cohorts) == (None, ())
    # Another round on the first cohort has seen both, and a checkpoint on the second again names each once.
    assert Start.of(first.digest, info).cohorts == (second.digest, behind)
    both = info.model_copy(update={"earlier_cohorts": (behind, second.digest)})
    assert Start.of(first.digest, both).cohorts == (second.digest, behind)

    # Known by its digest: the same checkpoint elsewhere is the same input, and its path is kept nowhere.
    moved = tmp_path / "moved"
    shutil.copytree(first.path, moved)
    assert run_train(second, tuned.path, TrainSettings(**FIELDS, init_from=moved), seed=1) == tuned
    recorded = json.loads((tuned.path / "inputs.json").read_text())
    assert recorded["inputs"]["init_from"] == first.digest
    assert recorded["settings"]["init_from"] is None


def test_a_killed_fine_tuning_ends_in_the_same_weights(
    first: CheckpointRef, second: CohortRef, tmp_path: Path
) -> None:
    settings = TrainSettings(**{**FIELDS, "checkpoint_every_steps": 4}, init_from=first.path)
    made = run_train(second, tmp_path / "c", settings, seed=1)
    for name in (
        "reference.json",
        "model.safetensors",
        "checkpoint.json",
        "state/step-000000010.safetensors",
    ):
        (made.path / name).unlink()
    assert run_train(second, made.path, settings, seed=1).digest == made.digest


def rows_of(denoiser: Denoiser) -> torch.Tensor:
    return denoiser.state_dict()["network.class_embedding.rows.weight"]


def test_classes_keep_their_rows_by_name_and_new_ones_start_from_the_mean(first: CheckpointRef) -> None:
    old, _ = read_denoiser(first.path)
    spec = NetworkSpec.from_dict(
        {
            **old.spec.to_dict(),
            "num_classes": 3,
            "conditions": [2],
            "augment_features": 7,
            "image_size": [8, 8],
        }
    )
    new = Denoiser(spec, seed=5)
    features = new.state_dict()["network.class_embedding.features.weight"].clone()
    start_from(
        new, first.path, [("class", ("ring", "line", "disc")), ("sex", ("F", "M"))], digest=first.digest
    )
    disc, line, null = rows_of(old)
    torch.testing.assert_close(rows_of(new)[:4], torch.stack([(disc + line) / 2, line, disc, null]))
    assert not rows_of(new)[4:].any()
    assert torch.equal(new.state_dict()["network.class_embedding.features.weight"], features)

    # What was learnt is the same function, whatever the new field is.
    x, sigma = torch.randn(2, 1, 16, 16), torch.tensor([0.5, 2.0])
    with torch.no_grad():
        expected = old(x, sigma, torch.tensor([0, 1]))
        torch.testing.assert_close(new(x, sigma, torch.tensor([[2, 0], [1, 2]])), expected)


def test_a_field_that_is_gone_leaves_its_row_of_not_given(first: CheckpointRef, tmp_path: Path) -> None:
    from pipeline.train import fine_tuning as starting

    old, _ = read_denoiser(first.path)
    rows = rows_of(old)
    extra = torch.cat([rows, torch.randn(3, rows.shape[1])])
    matched = starting._matched_rows(
        extra, [("class", ("disc", "line")), ("sex", ("F", "M"))], [("class", ("line",))]
    )
    torch.testing.assert_close(matched, torch.stack([rows[1], rows[2]]) + extra[5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": (8, 24)}, r"has channels \(8, 16\), and train\.channels is \(8, 24\)"),
        ({"patch_size": 2}, "has patch_size 1, and train.patch_size is 2"),
        ({"parametrisation": "flow"}, "has parametrisation edm, and train.parametrisation is flow"),
        ({"sigma_data": 0.4}, "has sigma_data 0.5, and train.sigma_data is 0.4"),
    ],
)
def test_another_network_or_objective_is_refused_naming_both(
    first: CheckpointRef, second: CohortRef, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    settings = TrainSettings(**{**FIELDS, **change}, init_from=first.path)
    with pytest.raises(DataError, match=message) as caught:
        run_train(second, tmp_path / "c", settings, seed=1)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("damage", ["missing", "flipped", "truncated", "edited"])
def test_a_checkpoint_that_cannot_be_trusted_is_refused_and_nothing_is_lost(
    first: CheckpointRef, second: CohortRef, tmp_path: Path, damage: str
) -> None:
    copy = tmp_path / "copy"
    if damage != "missing":
        shutil.copytree(first.path, copy)
        path = copy / ("checkpoint.json" if damage == "edited" else "model.safetensors")
        content = bytearray(path.read_bytes())
        content[-10] ^= 1
        path.write_bytes(bytes(content[:100] if damage == "truncated" else content))
    out = tmp_path / "out"
    kept = run_train(second, out, TrainSettings(**{**FIELDS, "num_steps": 1}), seed=1)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    settings = TrainSettings(**FIELDS, init_from=copy)
    with pytest.raises(DataError, match=r"train\.init_from") as caught:
        run_train(second, out, settings, seed=1, force=True)
    assert caught.value.exit_code == 3
    assert isinstance(caught.value, TamperedError) == (damage != "missing")
    assert {path: path.read_bytes() for path in before} == before
    assert kept.digest


def test_a_checkpoint_is_not_replaced_by_what_starts_from_it(
    first: CheckpointRef, second: CohortRef, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(first.path, copy)
    with pytest.raises(UsageError, match="lies in the output directory"):
        run_train(second, copy, TrainSettings(**FIELDS, init_from=copy), seed=1, force=True)
    assert start_digest(TrainSettings(init_from=copy)) == first.digest


def test_the_path_stays_out_of_a_release(first: CheckpointRef) -> None:
    recipe = Recipe(train=TrainSettings(init_from=first.path))
    assert str(first.path) not in json.dumps(public_recipe(recipe))


def test_latents_cannot_be_fine_tuned(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.init_from cannot be used with train\.latent\.enabled"):
        TrainSettings(init_from=tmp_path, latent={"enabled": True})


def test_errors_are_our_own(tmp_path: Path) -> None:
    with pytest.raises(PhosphorError, match=r"train\.init_from: reference\.json is missing"):
        start_digest(TrainSettings(init_from=tmp_path / "nowhere"))
