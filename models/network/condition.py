"""Embedding of the conditions: one code per condition field, summed to one vector for the network."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

Condition = tuple[Tensor, Tensor | None]
"""(codes (N, F) int64, augmentation features (N, A) or None)."""


class ConditionEmbedding(nn.Module):
    """Sum of one learned vector per field, plus a linear map of the augmentation features.

    Field 0 is the class; the other fields are attributes (sex, view, ...) and findings (absent, present).
    Each field has one additional code, the null code for "not given". One network thus supports every
    combination of given fields, and multi-label data need no class per combination.

    The module replaces the class embedding of MONAI's U-Net, which passes its argument through and adds the
    result to the embedding of the noise level.

    Args:
        num_values: number of values of each field, the class first.
        num_features: number A of augmentation features; 0 for none.
        width: width of the embedding.
    """

    first_row: Tensor

    def __init__(self, num_values: tuple[int, ...], num_features: int, width: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(sum(count + 1 for count in num_values), width)
        # The sum over all fields starts with unit variance, as a single vector would.
        nn.init.normal_(self.rows.weight, std=len(num_values) ** -0.5)
        first = torch.tensor([0, *(count + 1 for count in num_values[:-1])]).cumsum(0)
        self.register_buffer("first_row", first, persistent=False)
        # No bias: an image without augmentation has features of zero, which must add nothing.
        self.features = nn.Linear(num_features, width, bias=False) if num_features else None

    def forward(self, condition: Condition) -> Tensor:
        """Return (N, width)."""
        codes, features = condition
        total: Tensor = self.rows(codes + self.first_row).sum(dim=1)
        if self.features is not None and features is not None:
            total = total + self.features(features.to(total.dtype))
        return total


def null_codes(num_values: tuple[int, ...], count: int, device: torch.device | str = "cpu") -> Tensor:
    """Return null codes (count, F) int64: no condition is given."""
    return _null_row(num_values, torch.device(device)).expand(count, -1)


@functools.cache
def _null_row(num_values: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the null code of every field (F,); cached, because a copy from the host makes it wait."""
    with torch.inference_mode(False):
        return torch.tensor(num_values, dtype=torch.int64, device=device)
