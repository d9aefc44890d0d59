"""An edit shows the class it was asked for, keeps the rest to the bit, and depends on nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from models.evaluation.classifier import predict_probabilities
from models.evaluation.training import ClassifierTraining, TrainingPart, train_classifier
from pipeline.artifacts.candidates import CANDIDATE_COLUMNS, EDITED_FROM, Candidates, written_columns
from pipeline.artifacts.checkpoint import load_denoiser
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.pixels import from_model_range, to_model_range
from pipeline.edit import EditSettings, plan_edit, run_edit
from pipeline.edit.draw import edit_batch, num_denoise_calls
from pipeline.errors import DataError, OutputExistsError, TamperedError, UsageError
from pipeline.records import CandidatesRef, CheckpointRef, CohortRef
from tests.cohorts import draw, write_cohort
from tests.pipeline.edit.conftest import BOX, FIELDS

RING = 2


def settings(**changes: Any) -> EditSettings:
    return EditSettings(**{**FIELDS, **changes})


def everything(folder: Path) -> np.ndarray:
    candidates = Candidates(folder)
    return candidates.take(list(range(len(candidates))))


def sources_of(edits: Path, cohort: Path) -> np.ndarray:
    """Return the scans that a set was edited from, by what its private table says."""
    table = pd.read_parquet(edits / "edits.parquet")
    ids = list(Cohort(cohort).records()["sample_id"])
    return Cohort(cohort).take([ids.index(name) for name in table["source_id"]])


def test_an_edited_set_is_a_candidate_set_whose_private_table_names_the_sources(
    edited: CandidatesRef, checkpoint: CheckpointRef, tiny_cohort_16: CohortRef
) -> None:
    assert edited.counts == {"candidates": 25, "classes": 1, "per_class": 20, "from_scans": 25}
    table = Candidates(edited.path).table
    assert written_columns(table) == [*CANDIDATE_COLUMNS, EDITED_FROM]
    assert table["sample_id"].tolist() == [f"ring-{index:06d}" for index in range(25)]
    assert set(table["sampler"]) == {"inpaint-repaint"}
    assert set(table["checkpoint_digest"]) == {checkpoint.digest}
    assert table["seed"].is_unique
    edits = pd.read_parquet(edited.path / "edits.parquet")
    records = Cohort(tiny_cohort_16.path).records().set_index("sample_id")
    chosen = records.loc[edits["source_id"]]
    assert set(chosen["split"]) == {"train"}
    assert set(chosen["label"]) == {"line"}
    assert edits["source_id"].is_unique
    assert set(edits["target_class"]) == {"ring"}
    assert set(edits["strength"]) == {1.0}
    assert edits["mask_digest"].str.fullmatch("[0-9a-f]{64}").all()
    for name in ("edits.parquet", "pairs.png", "candidates.parquet"):
        assert (edited.path / name).stat().st_mode & 0o777 == 0o600
    assert edited.path.stat().st_mode & 0o777 == 0o700


def test_outside_the_mask_every_pixel_is_the_sources_and_inside_few_are(
    edited: CandidatesRef, tiny_cohort_16: CohortRef
) -> None:
    before, after = sources_of(edited.path, tiny_cohort_16.path), everything(edited.path)
    inside = np.zeros((16, 16), dtype=bool)
    inside[2:14, 2:14] = True
    assert np.array_equal(after[..., ~inside], before[..., ~inside])
    assert (after[..., inside] == before[..., inside]).mean() < 0.1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_stored_pixels_survive_the_way_to_the_model_and_back(dtype: type) -> None:
    depth = np.dtype(dtype).itemsize * 8
    pixels = np.arange(2**depth, dtype=dtype).reshape(1, 1, -1, 256)
    assert np.array_equal(from_model_range(to_model_range(pixels), depth), pixels)


def test_a_classifier_reads_the_class_that_was_asked_for(
    edited: CandidatesRef, checkpoint: CheckpointRef, tiny_cohort_16: CohortRef, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    labels = np.arange(300) % 3
    pixels = np.stack([draw(int(label), 16, rng) for label in labels])[:, None]
    training = ClassifierTraining(num_steps=80)
    images = torch.from_numpy(to_model_range(pixels))
    part = TrainingPart(images, torch.from_numpy(labels))
    network = train_classifier([part], num_classes=3, seed=0, training=training).network

    def read_as_ring(stored: np.ndarray) -> float:
        shown = predict_probabilities(network, torch.from_numpy(to_model_range(stored)))
        return float((shown.argmax(dim=1) == RING).float().mean())

    assert read_as_ring(sources_of(edited.path, tiny_cohort_16.path)) < 0.2
    assert read_as_ring(everything(edited.path)) > 0.6
    shares = []
    for strength in (0.05, 0.6):
        varied = settings(mask=None, strength=strength, sampler="dpmpp_2m")
        made = run_edit(checkpoint, tiny_cohort_16.path, tmp_path / str(strength), varied, seed=5)
        shares.append(read_as_ring(everything(made.path)))
    assert shares[0] < 0.2
    assert shares[1] > 0.6


@pytest.mark.parametrize("changes", [{}, {"mask": None, "strength": 0.5, "sampler": "heun"}])
def test_an_edit_made_alone_equals_the_one_made_in_the_batch(
    checkpoint: CheckpointRef, tiny_cohort_16: CohortRef, changes: dict[str, Any]
) -> None:
    denoiser, _ = load_denoiser(checkpoint.path)
    chosen = settings(**changes)
    plan = plan_edit(checkpoint, tiny_cohort_16.path, chosen, seed=5)
    given = {"mask": plan.mask, "label": RING}
    whole = edit_batch(denoiser, plan.sources.pixels(0, 8), list(range(8)), chosen, **given)
    for row in (0, 5):
        alone = edit_batch(denoiser, plan.sources.pixels(row, row + 1), [row], chosen, **given)
        assert np.array_equal(alone, whole[row : row + 1])


def test_strength_one_without_a_mask_does_not_depend_on_the_source(
    checkpoint: CheckpointRef, tiny_cohort_16: CohortRef
) -> None:
    denoiser, _ = load_denoiser(checkpoint.path)
    fresh = settings(mask=None, strength=1.0, sampler="dpmpp_2m")
    plan = plan_edit(checkpoint, tiny_cohort_16.path, fresh, seed=5)
    first, second = (
        edit_batch(denoiser, plan.sources.pixels(row, row + 1), [77], fresh, mask=plan.mask, label=RING)
        for row in (0, 1)
    )
    assert np.array_equal(first, second)


def test_shards_and_the_number_wanted_change_no_edit(
    checkpoint: CheckpointRef, tiny_cohort_16: CohortRef, edited: CandidatesRef, tmp_path: Path
) -> None:
    fewer = settings(per_class=8, shard_size=8)
    made = run_edit(checkpoint, tiny_cohort_16.path, tmp_path / "fewer", fewer, seed=5)
    assert np.array_equal(everything(made.path), everything(edited.path)[:10])
    with pytest.raises(OutputExistsError, match="--force"):
        run_edit(checkpoint, tiny_cohort_16.path, made.path, fewer, seed=6)
    other = run_edit(checkpoint, tiny_cohort_16.path, made.path, fewer, seed=6, force=True)
    assert not np.array_equal(everything(other.path), everything(edited.path)[:10])


def test_an_interrupted_edit_keeps_whole_shards_and_ends_in_the_same_bytes(
    checkpoint: CheckpointRef, tiny_cohort_16: CohortRef, edited: CandidatesRef, tmp_path: Path
) -> None:
    out = tmp_path / "edits"
    out.mkdir()
    for name in ("inputs.json", "pixels-00000.npy", "pixels-00002.npy"):
        shutil.copy2(edited.path / name, out / name)
    kept = (out / "pixels-00002.npy").stat().st_ino
    resumed = run_edit(checkpoint, tiny_cohort_16.path, out, settings(), seed=5)
    assert (out / "pixels-00002.npy").stat().st_ino == kept
    assert resumed.digest == edited.digest
    assert run_edit(checkpoint, tiny_cohort_16.path, out, settings(), seed=5) == resumed


def test_edits_of_candidates_are_synthetic_and_edits_of_edits_of_scans_stay_marked(
    checkpoint: CheckpointRef, edited_candidates: CandidatesRef, edited: CandidatesRef, tmp_path: Path
) -> None:
    assert edited_candidates.counts["from_scans"] == 0
    assert set(Candidates(edited_candidates.path).table[EDITED_FROM]) == {"candidate"}
    again = settings(from_class="ring", to_class="disc", per_class=4)
    twice = run_edit(checkpoint, edited.path, tmp_path / "twice", again, seed=5)
    assert twice.counts["from_scans"] == twice.counts["candidates"] == 5
    assert set(Candidates(twice.path).table[EDITED_FROM]) == {"scan"}


def test_repeats_cost_the_calls_that_a_dry_run_counts() -> None:
    plain, repeated = (num_denoise_calls(settings(num_steps=26, repeats=count), 1.0) for count in (1, 8))
    assert (plain, repeated) == (26, 75)
    assert num_denoise_calls(settings(num_steps=10, sampler="heun"), 1.0) == 19
    assert num_denoise_calls(settings(mask=None, strength=0.5, sampler="ddim", num_steps=10), 1.0) == 5


@pytest.mark.parametrize(
    ("changes", "kind", "code", "message"),
    [
        ({"to_class": None}, UsageError, 2, "--to.*disc"),
        ({"to_class": "heart"}, UsageError, 2, "--to.*no such class.*heart.*disc"),
        ({"from_class": "heart"}, UsageError, 2, "--class.*heart"),
        ({"mask": (0.01, 0.01, 0.02, 0.02)}, UsageError, 2, "mask is empty"),
        ({"mask": "nowhere.png"}, UsageError, 2, "--mask: no such file"),
    ],
)
def test_wrong_commands_are_refused_before_anything_is_written(
    checkpoint: CheckpointRef,
    tiny_cohort_16: CohortRef,
    tmp_path: Path,
    changes: dict[str, Any],
    kind: type[UsageError],
    code: int,
    message: str,
) -> None:
    with pytest.raises(kind, match=message) as caught:
        run_edit(checkpoint, tiny_cohort_16.path, tmp_path / "out", settings(**changes), seed=0)
    assert caught.value.exit_code == code
    assert not (tmp_path / "out").exists()


def test_a_cohort_of_another_size_or_depth_is_refused(
    checkpoint: CheckpointRef, tiny_cohort: CohortRef, tmp_path: Path
) -> None:
    deep = write_cohort(
        tmp_path / "deep",
        pixels=np.random.default_rng(0).integers(0, 65536, (40, 1, 16, 16), dtype=np.uint16),
        labels=np.arange(40) // 2 % 3,
    )
    for cohort, found in ((tiny_cohort, "32 x 32 of 8 bits"), (deep, "16 x 16 of 16 bits")):
        with pytest.raises(DataError, match=f"16 x 16 pixels of 8 bits.*{found}") as caught:
            run_edit(checkpoint, cohort.path, tmp_path / "out", settings(), seed=0)
        assert caught.value.exit_code == 3


def test_a_selection_that_holds_nothing_is_refused(checkpoint: CheckpointRef, tmp_path: Path) -> None:
    discs = write_cohort(tmp_path / "cohort", num_scans=40, image_size=16, num_classes=1, seed=3)
    with pytest.raises(UsageError, match="train split holds no image of another class than 'disc'") as caught:
        run_edit(checkpoint, discs.path, tmp_path / "out", settings(to_class="disc", from_class=None), seed=0)
    assert caught.value.exit_code == 2


def test_candidates_of_another_checkpoint_and_foreign_folders_are_refused(
    checkpoint: CheckpointRef, drawn: CandidatesRef, tmp_path: Path
) -> None:
    other = checkpoint.model_copy(update={"digest": "0" * 64})
    with pytest.raises(DataError, match="made by another checkpoint"):
        plan_edit(other, drawn.path, settings(), seed=0)
    with pytest.raises(DataError, match="neither a cohort nor candidates"):
        plan_edit(checkpoint, checkpoint.path, settings(), seed=0)
    with pytest.raises(DataError, match="json is missing"):
        plan_edit(checkpoint, tmp_path, settings(), seed=0)


def test_sources_that_were_changed_are_refused(
    checkpoint: CheckpointRef, drawn: CandidatesRef, tmp_path: Path
) -> None:
    copied = shutil.copytree(drawn.path, tmp_path / "copied")
    shard = copied / "pixels-00000.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(TamperedError, match="pixels-00000"):
        plan_edit(checkpoint, copied, settings(), seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": 0.0}, "strength"),
        ({"strength": 1.5}, "strength"),
        ({"split": "holdout"}, "it is the privacy gate's control"),
        ({"split": "everything"}, "train, val or test"),
        ({"mask": (0.5, 0.1, 0.4, 0.9)}, "x0 < x1"),
        ({"mask": None, "sampler": "repaint"}, "set a mask"),
        ({"shard_size": 7}, "shard_size"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_what_stands_for_no_strength_and_no_sampler() -> None:
    masked = EditSettings(to_class="ring", mask=BOX)
    whole = EditSettings(to_class="ring")
    assert (masked.resolved_strength, masked.resolved_sampler) == (1.0, "repaint")
    assert (whole.resolved_strength, whole.resolved_sampler) == (0.4, "dpmpp_2m")
    assert (whole.num_sources(100), whole.num_wanted(80), whole.num_wanted(10)) == (80, 64, 8)
