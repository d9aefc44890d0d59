"""Memory of a training step: estimated before it runs, and what to do if it was too much."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch

from models.devices import default_device, release_memory
from models.diffusion.denoiser import Denoiser
from models.optim.activation_checkpointing import recomputed_blocks

TRANSIENT = 1.4
"""Peak memory of a forward and a backward pass over what the forward pass keeps: 1.15 to 1.38 was measured,
with networks for 64 to 224 pixels."""

LARGE_IMAGE = 128**2
"""Pixels from which the memory is counted on tensors without data. For smaller images real ones are faster:
torch's device `meta` takes a second to import."""

# Messages of failed allocations of torch, the C++ library and oneDNN.
_WORDS = (
    "DefaultCPUAllocator",
    "not enough memory",
    "can't allocate memory",
    "bad_alloc",
    "CUDA out of memory",
    "MPS backend out of memory",
)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error is an out-of-memory error."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def saved_bytes(forward: Callable[[int], object]) -> int:
    """Return the bytes per scan that a forward pass saves for its backward pass.

    Args:
        forward: function that computes on 1 or 2 scans; returns the start of the backward pass.
    """

    def kept_by(count: int) -> int:
        kept = _Kept()
        with kept:
            # Held until all tensors are counted: the address of a freed tensor could be used again.
            held = forward(count)
        del held
        return sum(kept.found.values())

    # Weights are saved too, independently of the number of scans.
    return max(kept_by(2) - kept_by(1), 0)


def step_bytes(denoiser: Denoiser, *, recompute: bool) -> int:
    """Estimate the memory per scan of a forward and a backward pass; of large images nothing is computed.

    Args:
        denoiser: the denoiser that computes, in its precision; not changed.
        recompute: whether the blocks of the network keep only their inputs
            (`models/optim/activation_checkpointing.py`).
    """
    large = math.prod(denoiser.spec.image_size) > LARGE_IMAGE
    where = torch.device("meta") if large else next(denoiser.parameters()).device
    shadow = copy.deepcopy(denoiser).to(where).train()
    one, two = (_kept_by_block(shadow, count, where) for count in (1, 2))
    # Weights are kept too, independently of the number of scans.
    blocks = [max(more - less, 0) for less, more in zip(one, two, strict=True)]
    kept = sum(blocks)
    if recompute:
        # Of the blocks, one at a time is computed again; the others keep their inputs.
        *inner, outside = blocks
        kept = outside + max(inner)
    return int(TRANSIENT * kept)


def _kept_by_block(denoiser: Denoiser, count: int, where: torch.device) -> list[int]:
    """Return the bytes that each block keeps for the backward pass of some scans, and those of the rest.

    The preconditioning around the network keeps little: its output, 1 % of the whole.
    """
    blocks, spec = recomputed_blocks(denoiser), denoiser.spec
    found = [0] * (len(blocks) + 1)
    height, width = (-(-side // spec.multiple) * spec.multiple // spec.patch_size for side in spec.image_size)
    channels = spec.in_channels * spec.patch_size**2
    patches = torch.zeros(count, channels, height, width, dtype=denoiser.compute_dtype, device=where)
    features = torch.zeros(count, spec.augment_features, device=where) if spec.augment_features else None
    condition = (denoiser.null_codes(count, where), features)
    kept = _Kept()

    def add_to(number: int) -> Callable[..., None]:
        def add(*_: object) -> None:
            found[number] += kept.since_last()

        return add

    hooks = [block.register_forward_pre_hook(add_to(-1)) for block in blocks]
    hooks += [block.register_forward_hook(add_to(number)) for number, block in enumerate(blocks)]
    with kept:
        held = denoiser.network(patches, torch.zeros(count, device=where), class_labels=condition)
        found[-1] += kept.since_last()
    del held
    for hook in hooks:
        hook.remove()
    return found


class _Kept(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes of the tensors that are saved for a backward pass, each storage once.

    Attributes:
        found: storage -> its bytes.
    """

    def __init__(self) -> None:
        self.found: dict[int, int] = {}
        self._last = 0
        super().__init__(self._pack, lambda tensor: tensor)

    def since_last(self) -> int:
        """Return the bytes that were saved since the last call."""
        total = sum(self.found.values())
        self._last, before = total, self._last
        return total - before

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        # A tensor without data has no address; its storage object has one.
        storage = tensor.untyped_storage()
        self.found[storage._cdata] = storage.nbytes()
        return tensor


def largest_that_fits(attempt: Callable[[int], None], size: int) -> int:
    """Halve a size until the attempt does not run out of memory.

    Args:
        attempt: does the work of one size; called once per halving.
        size: the size that did not fit.

    Returns:
        The first half, quarter, ... that fitted, or 0 if not even 1 did.
    """
    while size > 1:
        size //= 2
        release_memory(default_device())
        try:
            attempt(size)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            continue
        return size
    return 0
