"""The optimiser: AdamW, or Muon for the matrices inside the network and AdamW for all other parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from models.optim.muon import Muon

OptimiserName = Literal["adamw", "muon"]
BETAS = (0.9, 0.99)
_BLOCKS = ("down_blocks.", "middle_block.", "up_blocks.")


class Optimiser:
    """Optimiser of named parameters; its state is a set of named tensors, restored by copying into them.

    All parameters other than matrices inside the U-Net's blocks (biases, norms, embeddings, first and last
    layer) are always optimised by AdamW.

    Args:
        parameters: name -> parameter, on their device and in their memory layout.
        name: ``adamw`` or ``muon``.
        weight_decay: decoupled weight decay.
        dtype: dtype of Muon's products: that of the network.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        name: OptimiserName,
        weight_decay: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        matrices: dict[str, nn.Parameter] = {}
        self._others: dict[str, nn.Parameter] = {}
        for own, parameter in parameters:
            inside = name == "muon" and parameter.ndim > 1 and any(block in own for block in _BLOCKS)
            (matrices if inside else self._others)[own] = parameter
        self._adamw = torch.optim.AdamW(
            list(self._others.values()), lr=0.0, betas=BETAS, weight_decay=weight_decay, fused=True
        )
        for parameter in self._others.values():
            # The state as created by the first step, in the parameters' layout, as the fused kernel requires.
            self._adamw.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
        self._matrix_names = list(matrices)
        self._muon = Muon(list(matrices.values()), weight_decay=weight_decay, dtype=dtype)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter."""
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        if self._matrix_names:
            self._muon.step(learning_rate)

    def tensors(self) -> dict[str, Tensor]:
        """Return the state by name; copying into it sets it."""
        state: dict[str, Tensor] = {}
        for name, parameter in self._others.items():
            for kind in ("exp_avg", "exp_avg_sq"):
                state[f"{kind}.{name}"] = self._adamw.state[parameter][kind]
        for name, momentum in zip(self._matrix_names, self._muon.momentum, strict=True):
            state[f"momentum.{name}"] = momentum
        return state

    def set_step(self, step: int) -> None:
        """Set the number of steps done, on which AdamW's bias correction depends."""
        for state in self._adamw.state.values():
            state["step"].fill_(float(step))
