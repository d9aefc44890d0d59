"""The network specification refuses what cannot be built, and builds what it accepts."""

from __future__ import annotations

import json

import pytest
import torch

from models.network.network import NetworkSpec, build_network

SMALL = NetworkSpec(
    (16, 16), 3, channels=(16, 32), attention=(False, True), num_head_channels=16, num_norm_groups=8
)


def test_specification_survives_json() -> None:
    assert NetworkSpec.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_classes": 0}, "num_classes"),
        ({"num_classes": True}, "num_classes"),
        ({"image_size": [16]}, "image_size"),
        ({"image_size": [16, 10**9]}, "image_size"),
        ({"channels": [16, 20]}, "num_norm_groups"),
        ({"channels": 16}, "channels"),
        ({"attention": [True]}, "attention"),
        ({"attention": [0, 1]}, "attention"),
        ({"num_head_channels": 24}, "num_head_channels"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_wrong_fields_are_refused_by_name(change: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        NetworkSpec.from_dict({**SMALL.to_dict(), **change})


def test_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match="num_classes"):
        NetworkSpec.from_dict({"image_size": [16, 16]})


def test_network_has_a_null_class_row_and_starts_at_zero() -> None:
    network = build_network(SMALL, seed=1)
    assert network.class_embedding.rows.num_embeddings == SMALL.num_classes + 1
    output = network(torch.randn(2, 1, 16, 16), torch.tensor([0.0, 1.0]), class_labels=torch.tensor([0, 3]))
    assert output.shape == (2, 1, 16, 16)
    assert not output.any()


def test_initial_weights_follow_the_seed_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, same, other = (build_network(SMALL, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
