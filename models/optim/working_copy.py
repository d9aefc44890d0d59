"""Mixed precision by two sets of weights: a narrow one computes, the fp32 one learns."""

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
    """The model that computes while `master` learns (Micikevicius et al. 2018, arXiv 1710.03740).

    bf16 has the range of fp32 but 8 bits of precision, so that a small step would be rounded away: the steps
    are added up in fp32, and the weights are rounded anew for each. Rounding all at once costs far less than
    autocast, which rounds each of some two hundred tensors on its own, forwards and backwards. In fp32 both
    are one.

    Args:
        master: the model whose fp32 weights the optimiser changes, on its device.
        precision: what to compute in; its layout is given to both.

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
        """Round the master's weights into the working copy; call it after they changed."""
        if not self._is_master:
            torch._foreach_copy_(self._working, self._master)

    @torch.no_grad()
    def return_gradients(self, *, add: bool = False) -> None:
        """Give the gradients of the working copy to the master; call it after ``backward``.

        Args:
            add: add them to those of the batches before instead of replacing them. The sum is fp32, so that
                small gradients do not get lost in it.
        """
        if self._is_master:
            # One and the same: autograd has added them up already.
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
        # Copied, so that they lie in memory as the master does: the fused optimiser relies on it. All at
        # once, since an accelerator takes longer to be told of each than to copy them.
        if add:
            torch._foreach_add_(kept, found)
        else:
            torch._foreach_copy_(kept, found)

    def drop_gradients(self) -> None:
        """Free the working copy's gradients, for instance after a step that was broken off."""
        self.model.zero_grad(set_to_none=True)

    def clear_gradients(self) -> None:
        """Forget the gradients after a step."""
        if self._is_master:
            self.model.zero_grad(set_to_none=True)


class WorkingCopy(NarrowCopy[Denoiser]):
    """The denoiser that computes, with what makes it cheaper to train.

    Args:
        master: the denoiser whose fp32 weights the optimiser changes, on its device.
        precision: what to compute in; its layout is given to both.
        recompute: compute activations again in the backward pass instead of keeping them.

    Attributes:
        denoiser: the denoiser that computes.
        compute: what to call to train it: itself or its compiled form.
    """

    def __init__(self, master: Denoiser, precision: Precision, *, recompute: bool = False) -> None:
        super().__init__(master, precision)
        self.denoiser = self.model
        if recompute:
            recompute_activations(self.denoiser)
        self.compute: Compute = (
            compiled(self.denoiser, graphs=precision.graphs) if precision.compiled else self.denoiser
        )
