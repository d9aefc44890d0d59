"""What an image is asked to show: one code a condition field, turned into one vector for the network."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

Condition = tuple[Tensor, Tensor | None]
"""(codes (N, F) int64, augmentation features (N, A) or None)."""


class ConditionEmbedding(nn.Module):
    """Sum of one learned vector a field, and a linear map of augmentation features.

    Field 0 is the class; further fields are attributes (sex, view, ...) and findings (absent, present). Each
    has one code more than values: the null code, "not given". So one network serves every combination of what
    is given, and multi-label sets need no class a combination.

    It takes the place of the class embedding of MONAI's U-Net, which hands its argument through and adds the
    result to the embedding of the noise level.

    Args:
        num_values: values of each field, the class first.
        num_features: width A of the augmentation features; 0 for none.
        width: width of the result.
    """

    first_row: Tensor

    def __init__(self, num_values: tuple[int, ...], num_features: int, width: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(sum(count + 1 for count in num_values), width)
        # As many vectors add up as there are fields: the sum starts with unit variance, as one vector would.
        nn.init.normal_(self.rows.weight, std=len(num_values) ** -0.5)
        first = torch.tensor([0, *(count + 1 for count in num_values[:-1])]).cumsum(0)
        self.register_buffer("first_row", first, persistent=False)
        # No bias: an image that was not augmented has features of zero and is conditioned on nothing more.
        self.features = nn.Linear(num_features, width, bias=False) if num_features else None

    def forward(self, condition: Condition) -> Tensor:
        """Return (N, width)."""
        codes, features = condition
        total: Tensor = self.rows(codes + self.first_row).sum(dim=1)
        if self.features is not None and features is not None:
            total = total + self.features(features.to(total.dtype))
        return total


def null_codes(num_values: tuple[int, ...], count: int, device: torch.device | str = "cpu") -> Tensor:
    """Return (count, F) int64: nothing is given."""
    return _null_row(num_values, torch.device(device)).expand(count, -1)


@functools.cache
def _null_row(num_values: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the null code of every field (F,); made once, since a copy from the host makes it wait."""
    with torch.inference_mode(False):
        return torch.tensor(num_values, dtype=torch.int64, device=device)
