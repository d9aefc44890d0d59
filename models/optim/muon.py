"""Muon: momentum whose matrices are replaced by their nearest matrix of equal singular values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
RMS_OF_ADAMW = 0.2
"""Root mean square of an entry of AdamW's step as a share of the learning rate (arXiv 2502.16982)."""

SMALLEST_LIFTED = 0.01
"""Singular values from this share of the Frobenius norm on end within `LIFTED_TO`."""
LIFTED_TO = (0.73, 1.27)
POLYNOMIALS = ((8.0934, -23.6204, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526))
"""Each step maps a singular value s to a s + b s^3 + c s^5. Of all such steps these come, one by one, closest
to 1 in their largest error, from `SMALLEST_LIFTED` on (the construction of arXiv 2505.16932). The
three lift as much as five of the fixed step (3.4445, -4.7750, 2.0315) that Muon came with."""


class Muon:
    """Changes weight matrices by their orthogonalised momentum (Jordan et al. 2024).

    Rare directions are so learnt as fast as frequent ones. Steps are scaled to the size of AdamW's, so both
    take one learning rate (Liu et al. 2025, arXiv 2502.16982). Differs from ``torch.optim.Muon`` in speed:
    matrices of one shape are computed together, in three steps instead of five. With the many small matrices
    of a network for a CPU that takes half its time.

    Args:
        parameters: weights (out, in, ...), each contiguous or channels-last; it counts as the matrix (out,
            the rest).
        weight_decay: decoupled weight decay.
        dtype: arithmetic of the products.

    Attributes:
        momentum: one fp32 matrix for each parameter, to be saved and copied into.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], *, weight_decay: float, dtype: torch.dtype
    ) -> None:
        self._parameters, self._weight_decay, self._dtype = list(parameters), weight_decay, dtype
        self._matrices = [as_matrix(parameter.detach()) for parameter in self._parameters]
        self.momentum = [torch.zeros_like(matrix) for matrix in self._matrices]
        self._groups: dict[tuple[int, int], list[tuple[int, bool]]] = {}
        """(rows, columns) with rows <= columns -> index of each such matrix, and whether it lies that way."""
        for index, matrix in enumerate(self._matrices):
            rows, columns = sorted(matrix.shape)
            self._groups.setdefault((rows, columns), []).append((index, len(matrix) == rows))

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Change every parameter; one without a gradient counts as one whose gradient is zero."""
        gradients = [
            torch.zeros_like(matrix) if parameter.grad is None else as_matrix(parameter.grad)
            for parameter, matrix in zip(self._parameters, self._matrices, strict=True)
        ]
        torch._foreach_lerp_(self.momentum, gradients, 1.0 - MOMENTUM)
        # Nesterov: the momentum as it would be one step on.
        ahead = torch._foreach_lerp(gradients, self.momentum, MOMENTUM)
        if self._weight_decay:
            torch._foreach_mul_(self._matrices, 1.0 - learning_rate * self._weight_decay)
        for (_, longer), members in self._groups.items():
            stack = torch.stack([ahead[i] if wide else ahead[i].mT for i, wide in members])
            lifted = orthogonalise(stack, self._dtype).to(torch.float32)
            changes = [
                one if wide else one.mT for one, (_, wide) in zip(lifted.unbind(), members, strict=True)
            ]
            size = learning_rate * RMS_OF_ADAMW * longer**0.5
            torch._foreach_add_([self._matrices[i] for i, _ in members], changes, alpha=-size)


def orthogonalise(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Bring the singular values of matrices near 1 and leave their singular vectors.

    Args:
        matrices: (k, m, n) with m <= n.
        dtype: arithmetic of the products, and type of the result. bf16 suffices: what it rounds away is small
            against the spread of `LIFTED_TO`.

    Returns:
        (k, m, n). A matrix of zeros stays zero.
    """
    norms = torch.linalg.matrix_norm(matrices, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    # A little less than 1: rounding must not lift a value out of the range that the first step is made for.
    x = (matrices * (0.99 / norms)).to(dtype)
    for a, b, c in POLYNOMIALS:
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def as_matrix(tensor: Tensor) -> Tensor:
    """View a weight (out, in, ...) as (out, the rest), in whatever order the rest lies in memory.

    Raises:
        ValueError: the tensor is neither contiguous nor channels-last.
    """
    if tensor.is_contiguous():
        return tensor.view(len(tensor), -1)
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1).view(len(tensor), -1)
    raise ValueError(f"a weight must be contiguous or channels-last, got strides {tensor.stride()}")
