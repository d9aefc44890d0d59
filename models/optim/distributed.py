"""Sums and copies of many tensors over the processes of a job, a few large messages instead of many small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, distributed, nn

BUCKET_BYTES = 32 * 2**20


class GradientSum:
    """Adds up the fp32 gradients of all processes of the job, in place and equally on each.

    Args:
        parameters: the parameters, in the same order on every process, on one device.
        bucket_bytes: largest message; several are under way at once.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], bucket_bytes: int = BUCKET_BYTES) -> None:
        self._buckets = [_Bucket(group) for group in _grouped(parameters, bucket_bytes)]

    @torch.no_grad()
    def add_up(self, loss: Tensor) -> Tensor:
        """Sum the gradients, and a scalar that travels with them.

        A parameter without a gradient on this process counts as zero.

        Args:
            loss: a scalar of this process.

        Returns:
            The scalar summed over all processes.
        """
        total = loss.detach().float().reshape(1).clone()
        under_way = [distributed.all_reduce(total, async_op=True)]
        for bucket in self._buckets:
            bucket.fill()
            under_way.append(distributed.all_reduce(bucket.flat, async_op=True))
        for work in under_way:
            work.wait()
        for bucket in self._buckets:
            bucket.give_back()
        return total.reshape(())


class _Bucket:
    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self.flat = torch.zeros(
            sum(parameter.numel() for parameter in parameters), device=parameters[0].device
        )
        sizes = [parameter.numel() for parameter in parameters]
        # Each part lies in memory as its parameter does, on every process alike: then all are copied at once.
        self._parts = [
            part.as_strided(parameter.shape, parameter.stride(), part.storage_offset())
            for part, parameter in zip(self.flat.split(sizes), parameters, strict=True)
        ]

    def fill(self) -> None:
        torch._foreach_copy_(self._parts, self._gradients())

    def give_back(self) -> None:
        torch._foreach_copy_(self._gradients(), self._parts)

    def _gradients(self) -> list[Tensor]:
        """Return the gradients, zeros where there is none."""
        gradients = []
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            gradients.append(parameter.grad)
        return gradients


def broadcast_tensors(tensors: Sequence[Tensor]) -> None:
    """Copy process 0's values into the tensors of every process, in place."""
    with torch.no_grad():
        for tensor in tensors:
            # A message is read as plain memory: a copy in the plain order serves any layout.
            plain = tensor.detach().contiguous()
            distributed.broadcast(plain, src=0)
            if plain.data_ptr() != tensor.data_ptr():
                tensor.copy_(plain)


def _grouped(parameters: Sequence[nn.Parameter], bucket_bytes: int) -> Iterator[list[nn.Parameter]]:
    group: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        bytes_needed = parameter.numel() * 4
        if group and size + bytes_needed > bucket_bytes:
            yield group
            group, size = [], 0
        group.append(parameter)
        size += bytes_needed
    if group:
        yield group
