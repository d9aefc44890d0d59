"""Conditions add up field by field, and what is not given has a vector of its own."""

from __future__ import annotations

import torch

from models.network.condition import ConditionEmbedding, null_codes


def test_each_field_has_its_own_vectors() -> None:
    embedding = ConditionEmbedding((2, 3), 0, 8)
    rows = embedding.rows.weight
    result = embedding((torch.tensor([[1, 0], [2, 3]]), None))
    torch.testing.assert_close(result[0], rows[1] + rows[3])
    torch.testing.assert_close(result[1], rows[2] + rows[6])


def test_the_sum_of_many_fields_starts_with_unit_variance() -> None:
    torch.manual_seed(0)
    embedding = ConditionEmbedding((5,) * 20, 0, 256)
    codes = torch.randint(0, 6, (64, 20))
    assert 0.9 < float(embedding((codes, None)).detach().std()) < 1.1


def test_features_of_zero_are_the_same_as_none() -> None:
    embedding = ConditionEmbedding((2,), 4, 8)
    codes = torch.tensor([[0], [1]])
    torch.testing.assert_close(embedding((codes, torch.zeros(2, 4))), embedding((codes, None)))
    assert not torch.allclose(embedding((codes, torch.ones(2, 4))), embedding((codes, None)))


def test_null_codes_follow_the_last_value_of_each_field() -> None:
    assert null_codes((2, 4), 3).tolist() == [[2, 4]] * 3
