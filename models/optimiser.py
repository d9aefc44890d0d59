"""The optimiser: AdamW, or Muon for the matrices inside the network and AdamW for all else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

OptimiserName = Literal["adamw", "muon"]
BETAS = (0.9, 0.99)
MOMENTUM = 0.95
_BLOCKS = ("down_blocks.", "middle_block.", "up_blocks.")


class Optimiser:
    """Changes named parameters by their gradients; its state is named tensors, to be saved and copied into.

    Muon replaces the momentum of a weight matrix by the nearest matrix of equal singular values (Jordan et
    al. 2024), so that rare directions are learnt as fast as frequent ones. A convolution's kernel counts as
    the matrix (channels out, channels in x height x width). Its step is scaled to the size of AdamW's (Liu et
    al. 2025, arXiv 2502.16982), so both take one learning rate. What is no matrix inside the U-Net's blocks
    (biases, norms, embeddings, first and last layer) is left to AdamW.

    Args:
        parameters: name -> parameter, on their device and in their memory layout.
        name: ``adamw`` or ``muon``.
        weight_decay: decoupled weight decay.
    """

    def __init__(
        self, parameters: Iterable[tuple[str, nn.Parameter]], *, name: OptimiserName, weight_decay: float
    ) -> None:
        self._matrices: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        others: dict[str, nn.Parameter] = {}
        for own, parameter in parameters:
            if name == "muon" and parameter.ndim > 1 and any(block in own for block in _BLOCKS):
                self._matrices[own] = (parameter, nn.Parameter(as_matrix(parameter.detach())))
            else:
                others[own] = parameter
        self._others = others
        self._adamw = torch.optim.AdamW(
            list(others.values()), lr=0.0, betas=BETAS, weight_decay=weight_decay, fused=True
        )
        for parameter in others.values():
            # As the first step would make it; preserving the layout, as the fused kernel reads plain memory.
            self._adamw.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
        self._muon: torch.optim.Muon | None = None
        if self._matrices:
            matrices = [matrix for _, matrix in self._matrices.values()]
            self._muon = torch.optim.Muon(
                matrices,
                lr=0.0,
                weight_decay=weight_decay,
                momentum=MOMENTUM,
                adjust_lr_fn="match_rms_adamw",
            )
            for matrix in matrices:
                self._muon.state[matrix] = {"momentum_buffer": torch.zeros_like(matrix)}

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Change every parameter that has a gradient."""
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        if self._muon is None:
            return
        for parameter, matrix in self._matrices.values():
            matrix.grad = None if parameter.grad is None else as_matrix(parameter.grad)
        for group in self._muon.param_groups:
            group["lr"] = learning_rate
        self._muon.step()

    def moments(self) -> dict[str, Tensor]:
        """Return the state by name; copying into it sets it."""
        state: dict[str, Tensor] = {}
        for name, parameter in self._others.items():
            for kind in ("exp_avg", "exp_avg_sq"):
                state[f"{kind}.{name}"] = self._adamw.state[parameter][kind]
        if self._muon is not None:
            for name, (_, matrix) in self._matrices.items():
                state[f"momentum.{name}"] = self._muon.state[matrix]["momentum_buffer"]
        return state

    def set_step(self, step: int) -> None:
        """Count from `step` steps done on, which AdamW's bias correction depends on."""
        for state in self._adamw.state.values():
            state["step"].fill_(float(step))


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
