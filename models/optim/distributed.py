"""Sums and copies of many tensors over the processes of a job."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn


class GradientSum:
    """Sums the fp32 gradients of all processes of the job in one message, in place and equally on each.

    Args:
        parameters: the parameters, in the same order on every process, on one device.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        sizes = [parameter.numel() for parameter in parameters]
        # The last element is the loss.
        self._flat = torch.zeros(sum(sizes) + 1, device=parameters[0].device)
        # Each part has the memory layout of its parameter, on every process, so that one call copies all.
        self._parts = [
            part.as_strided(parameter.shape, parameter.stride(), part.storage_offset())
            for part, parameter in zip(self._flat[:-1].split(sizes), parameters, strict=True)
        ]

    @torch.no_grad()
    def add_up(self, loss: Tensor) -> Tensor:
        """Sum the gradients and a scalar over all processes.

        A parameter without a gradient on this process counts as zero.

        Args:
            loss: a scalar of this process.

        Returns:
            The scalar summed over all processes.
        """
        gradients = []
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            gradients.append(parameter.grad)
        torch._foreach_copy_(self._parts, gradients)
        self._flat[-1].copy_(loss)
        distributed.all_reduce(self._flat)
        torch._foreach_copy_(gradients, self._parts)
        return self._flat[-1].clone()


def broadcast_tensors(tensors: Sequence[Tensor]) -> None:
    """Copy process 0's values into the tensors of every process, in place."""
    with torch.no_grad():
        for tensor in tensors:
            # A message is read as contiguous memory: a contiguous copy works for any layout.
            plain = tensor.detach().contiguous()
            distributed.broadcast(plain, src=0)
            if plain.data_ptr() != tensor.data_ptr():
                tensor.copy_(plain)
