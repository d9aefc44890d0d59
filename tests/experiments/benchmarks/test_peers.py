"""The peers: their networks are as large as ours and see as much, and they train as long as they are told."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.network.spec import NetworkSpec
from pipeline.artifacts.cohort import Cohort
from pipeline.records import CohortRef
from tests.experiments.benchmarks.peers import (
    SKIPPED_STEPS,
    DiffusersLoop,
    Peer,
    TutorialLoop,
    num_parameters,
    train_peer,
)
from tests.experiments.benchmarks.real_cohort import sample_peer

SPEC = NetworkSpec(
    image_size=(14, 14),
    num_classes=3,
    channels=(8, 16),
    attention=(False, True),
    num_head_channels=8,
    num_norm_groups=4,
    patch_size=2,
)
CPU = torch.device("cpu")
NEEDS_DIFFUSERS = pytest.mark.skipif(
    importlib.util.find_spec("diffusers") is None,
    reason="diffusers is missing: pip install -c constraints.txt diffusers",
)
KINDS = [TutorialLoop, pytest.param(DiffusersLoop, marks=NEEDS_DIFFUSERS)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_peer_learns_from_a_step_and_keeps_the_size_of_its_images(
    kind: type[TutorialLoop | DiffusersLoop],
) -> None:
    torch.manual_seed(0)
    peer = kind(SPEC, CPU)
    before = [parameter.detach().clone() for parameter in peer.network.parameters()]
    images, labels = torch.rand(4, 1, 14, 14) * 2 - 1, torch.tensor([0, 1, 2, 0])
    for _ in range(2):
        peer.step(images, labels)
    assert any(not torch.equal(a, b) for a, b in zip(before, peer.network.parameters(), strict=True))
    with torch.no_grad():
        assert peer.network(images, torch.zeros(4, dtype=torch.int64), labels).shape == images.shape


@NEEDS_DIFFUSERS
def test_both_peers_have_networks_of_one_size() -> None:
    sizes = [num_parameters(kind(SPEC, CPU).network) for kind in (TutorialLoop, DiffusersLoop)]
    assert max(sizes) < 1.05 * min(sizes)


class _Counting:
    """A peer that only counts its steps."""

    network = torch.nn.Identity()
    steps = 0

    def step(self, images: Tensor, labels: Tensor) -> None:
        self.steps += 1

    def sample(self, noise: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        return noise


def test_a_peer_trains_until_its_time_is_over_or_for_its_steps(tiny_cohort_16: CohortRef) -> None:
    cohort, peer = Cohort(tiny_cohort_16.path), _Counting()
    checked: Peer = peer
    run = train_peer(checked, cohort, batch_size=8, device=CPU, seconds=0.2)
    assert run.seconds >= 0.2
    assert run.steps == peer.steps > SKIPPED_STEPS
    assert train_peer(checked, cohort, batch_size=8, device=CPU, num_steps=40).steps == 40 + SKIPPED_STEPS
    with pytest.raises(ValueError, match="either num_steps or seconds"):
        train_peer(checked, cohort, batch_size=8, device=CPU)


class _Drawing(_Counting):
    """A peer that counts its batches and adds noise of its own; it may be killed."""

    network = torch.nn.Linear(1, 1)

    def __init__(self, dies_after: int = 1000) -> None:
        self.batches, self._dies_after = 0, dies_after

    def sample(self, noise: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        if self.batches == self._dies_after:
            raise KeyboardInterrupt
        self.batches += 1
        return (noise + torch.randn(noise.shape, generator=generator)) / 4


def test_a_peer_killed_while_sampling_goes_on_to_the_same_images(
    tiny_cohort_16: CohortRef, tmp_path: Path
) -> None:
    cohort, labels = Cohort(tiny_cohort_16.path), np.arange(20, dtype=np.int64) % 4
    whole = sample_peer(_Drawing(), cohort, labels, batch_size=8, seed=3)
    with pytest.raises(KeyboardInterrupt):
        sample_peer(_Drawing(dies_after=2), cohort, labels, batch_size=8, seed=3, kept=tmp_path)
    resumed = _Drawing()
    assert np.array_equal(sample_peer(resumed, cohort, labels, batch_size=8, seed=3, kept=tmp_path), whole)
    assert resumed.batches == 1
    assert len(np.unique(whole[:, 0, 0, 0])) > 1
