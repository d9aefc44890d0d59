"""What a dry run times of a training is what the training would compute here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.artifacts import checkpoint
from pipeline.cost.estimate import Foreseen, Workload, outlook_of
from pipeline.cost.pacing import Pace
from pipeline.recipe import load_recipe
from pipeline.records import CohortRef
from pipeline.train import TrainSettings, plan, run_train
from tests import tiny

SMALL = ["train.channels=[16,32]", "train.attention=[false,false]", "train.num_norm_groups=8"]
WORK = Workload(100, 10, 10, 10, 10, num_classes=2, image_size=(32, 32), bytes_a_pixel=1)


def settings(*overrides: str) -> TrainSettings:
    return load_recipe("cpu", [*SMALL, *overrides]).train


def test_memory_grows_with_the_batch_though_a_few_scans_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "pace_of", lambda _call, count: Pace(float(count), 1))

    def more_bytes(size: int, *more: str) -> int:
        chosen = settings(f"train.batch_size={size}", *more)
        return plan.train_speed(chosen, plan.network_of(chosen, WORK)).more_bytes

    few, many, parts = more_bytes(8), more_bytes(64), more_bytes(64, "train.micro_batch=8")
    assert many == pytest.approx(few * 63 / 7) and parts == few > 0


@pytest.mark.parametrize(
    ("num_train", "overrides", "told"),
    [(199, (), True), (200, (), False), (20, ("train.stop_when_memorising=true",), False)],
)
def test_few_scans_are_told_before_anything_is_trained(
    num_train: int, overrides: tuple[str, ...], told: bool
) -> None:
    chosen, work = settings(*overrides), replace(WORK, num_train=num_train)
    note = plan.plan_train(Foreseen(work), chosen, seed=0).note()
    assert (f"{num_train} train scans are few" in note) == bool(note) == told


def test_memory_on_an_accelerator_is_counted_and_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def estimate(device_bytes: int) -> tuple[int, int]:
        monkeypatch.setattr(plan, "pace_of", lambda _call, _count: Pace(0.01, 8, device_bytes))
        cost = plan.estimate_train(settings("train.batch_size=8"), WORK)
        return cost.memory_bytes, cost.device_bytes

    plain, with_device = estimate(0), estimate(2**36)
    assert (plain[1], with_device[1]) == (0, 2**36)
    assert with_device[0] - plain[0] >= 2**36


def test_a_private_training_is_timed_with_its_own_step_in_fp32() -> None:
    private = ("train.dp.epsilon=8", "train.class_balance=0", "train.max_minutes=null")
    chosen = settings(*private, "train.batch_size=4")
    network = plan.network_of(chosen, WORK)
    assert network.precision == "fp32"
    assert plan.network_of(settings(), WORK).precision == "auto"
    speed = plan.train_speed(chosen, network)
    assert speed.seconds > 0 and speed.more_bytes == 0
    assert type(plan._training_step(chosen, network, 2)).__name__ == "PrivateStep"


@pytest.mark.parametrize("latent", [False, True])
def test_the_step_that_is_timed_is_that_of_the_training(
    tiny_cohort: CohortRef, tmp_path_factory: pytest.TempPathFactory, latent: bool
) -> None:
    fields = {**tiny.TRAIN, "num_steps": 1, "augment": 0.0 if latent else 0.5, "checkpoint_activations": True}
    if latent:
        fields["latent"] = {
            "enabled": True,
            "channels": (8,),
            "patch_size": 4,
            "num_norm_groups": 8,
            "num_steps": 1,
        }
    chosen, out = TrainSettings(**fields), tmp_path_factory.mktemp("timed") / "checkpoint"
    network = plan.plan_train(tiny_cohort, chosen, seed=0).foresee().network
    assert network is not None
    made = run_train(tiny_cohort, out, chosen, seed=0)
    speed = plan.train_speed(chosen, network)
    assert speed.parameters == made.counts["parameters"]
    assert speed.seconds > 0
    known = outlook_of(made).network
    assert known is not None
    assert replace(known, precision=network.precision) == network


@pytest.mark.parametrize(
    ("size", "fields", "expected"),
    [
        ((64, 64), {}, "edm"),
        ((64, 65), {}, "spectral"),
        ((64, 64), {"parametrisation": "spectral"}, "spectral"),
        ((256, 256), {"parametrisation": "flow"}, "flow"),
        ((256, 256), {"latent": {"enabled": True}}, "edm"),
    ],
)
def test_the_target_follows_the_size_unless_it_is_given(
    size: tuple[int, int], fields: dict[str, Any], expected: str
) -> None:
    network = plan.network_of(TrainSettings(**fields), replace(WORK, image_size=size))
    assert network.parametrisation == expected
    assert network.denoiser().parametrisation == expected


def test_a_training_that_starts_from_a_checkpoint_is_timed_with_its_layers(
    tiny_cohort_16: CohortRef, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("start") / "checkpoint"
    start = run_train(tiny_cohort_16, folder, TrainSettings(**tiny.TRAIN, num_steps=1), seed=0)
    tuned = TrainSettings(init_from=start.path)
    assert plan.network_of(tuned, WORK).spec.channels == tiny.NETWORK["channels"]
    assert plan.network_of(TrainSettings(), WORK).spec.channels != tiny.NETWORK["channels"]
    # A target that was learned cannot change, whatever fits the size best.
    large = replace(WORK, image_size=(80, 80))
    assert plan.network_of(tuned, large).parametrisation == "edm"
    assert plan.network_of(TrainSettings(), large).parametrisation == "spectral"
    inputs = plan.plan_train(tiny_cohort_16, tuned, seed=0).wanted.inputs
    assert inputs == {"cohort": tiny_cohort_16.digest, "init_from": start.digest}


def test_weights_that_assume_a_law_are_another_output_under_another_law(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def digest(parametrisation: str) -> str:
        chosen = TrainSettings(parametrisation=parametrisation)
        return plan.plan_train(Foreseen(WORK), chosen, seed=0).wanted.digest

    before = {name: digest(name) for name in ("edm", "spectral", "flow")}
    monkeypatch.setattr(checkpoint, "SPECTRAL_LAW", checkpoint.SPECTRAL_LAW + 1)
    assert [name for name, found in before.items() if digest(name) != found] == ["spectral"]
