"""Mixed precision with two sets of weights: a bf16 copy computes, the fp32 master is trained."""

from __future__ import annotations

import copy
from typing import Generic

import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser
from models.optim.activation_checkpointing import recompute_activations
from models.optim.compiling import Compute, compiled
from models.optim.precision import ModelT, Precision, apply_precision


class NarrowCopy(Generic[ModelT]):
    """The copy that computes while `master` is trained (Micikevicius et al. 2018, arXiv 1710.03740).

    bf16 has the range of fp32 but 8 bits of precision, so small steps would be rounded away. The steps are
    therefore accumulated in fp32, and the weights are rounded for each step. Rounding all weights at once is
    much cheaper than autocast, which rounds some two hundred tensors one by one, forwards and backwards. In
    fp32, master and copy are the same.

    Args:
        master: the model whose fp32 weights the optimiser updates, on its device.
        precision: arithmetic of the copy; its layout is applied to both.

    Attributes:
        model: the model that computes.
    """

    def __init__(self, master: ModelT, precision: Precision) -> None:
        self._master: list[Tensor] = list(master.parameters())
        self._is_master = precision.dtype == "fp32"
        self.model = apply_precision(master if self._is_master else copy.deepcopy(master), precision)
        self._working: list[Tensor] = list(self.model.parameters())
        if not self._is_master:
            apply_precision(master, Precision("fp32", precision.channels_last))
            for parameter in self._master:
                parameter.grad = torch.zeros_like(parameter, memory_format=torch.preserve_format)

    @torch.no_grad()
    def take_weights(self) -> None:
        """Round the master's weights into the copy; call this after they have changed."""
        if not self._is_master:
            torch._foreach_copy_(self._working, self._master)

    @torch.no_grad()
    def return_gradients(self, *, add: bool = False) -> None:
        """Copy the gradients of the copy to the master; call this after ``backward``.

        Args:
            add: add them to the gradients of earlier batches instead of replacing those. The sum is fp32, so
                that small gradients are not lost.
        """
        if self._is_master:
            # Both are the same: autograd has already accumulated them.
            return
        kept: list[Tensor] = []
        found: list[Tensor] = []
        for parameter, master in zip(self._working, self._master, strict=True):
            assert master.grad is not None
            if parameter.grad is not None:
                kept.append(master.grad)
                found.append(parameter.grad)
                parameter.grad = None
            elif not add:
                master.grad.zero_()
        if not kept:
            return
        # Copied to the memory layout of the master, on which the fused optimiser relies. All in one call,
        # because launching one copy each takes an accelerator longer than the copies.
        if add:
            torch._foreach_add_(kept, found)
        else:
            torch._foreach_copy_(kept, found)

    def drop_gradients(self) -> None:
        """Free the gradients of the copy, for example after an aborted step."""
        self.model.zero_grad(set_to_none=True)

    def clear_gradients(self) -> None:
        """Clear the gradients after a step."""
        if self._is_master:
            self.model.zero_grad(set_to_none=True)


class WorkingCopy(NarrowCopy[Denoiser]):
    """The copy of a denoiser that computes, with activation checkpointing and compiling.

    Args:
        master: the denoiser whose fp32 weights the optimiser updates, on its device.
        precision: arithmetic of the copy; its layout is applied to both.
        recompute: recompute activations in the backward pass instead of keeping them.

    Attributes:
        denoiser: the denoiser that computes.
        compute: callable to use in training: the denoiser or its compiled form.
    """

    def __init__(self, master: Denoiser, precision: Precision, *, recompute: bool = False) -> None:
        super().__init__(master, precision)
        self.denoiser = self.model
        if recompute:
            recompute_activations(self.denoiser)
        self.compute: Compute = (
            compiled(self.denoiser, graphs=precision.graphs) if precision.compiled else self.denoiser
        )
