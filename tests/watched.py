"""What work asks of an accelerator: how many operations, how often the host waits, and nothing in float64.

Torch's meta device stands for an accelerator that knows no float64, as Apple's does; see tests/pretended.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from tests.pretended import META, NoWaiting

aten = torch.ops.aten
_SIZED_BY_VALUES = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor,
    aten.equal.default,
}
_ALLOCATING = {
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten._unsafe_view.default,
}


class Watched(NoWaiting):
    """Counts what is launched, and refuses what an accelerator would stumble over.

    Values that are asked for are ones: the meta device has none.

    Attributes:
        operations: name -> how often it was launched; views and allocations are not.
        waits: what was read off the device, one entry each time that the host waited for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits: list[str] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # Where no gradients are taken, an operation that torch makes of others arrives as a whole.
        with self:
            made = func.decompose(*args, **kwargs)
        if made is not NotImplemented:
            return made
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = [leaf for leaf in given if leaf.device == META]
        if there and (read := self._read(func, there[0], kwargs)) is not None:
            return read
        self._refuse(func, args, there)
        out = super().__torch_dispatch__(func, types, args, kwargs)
        made_there = [
            leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor) and leaf.device == META
        ]
        for leaf in (*there, *made_there):
            if leaf.dtype == torch.float64:
                raise RuntimeError(f"{func} with float64")
        if (there or made_there) and not func.is_view and func not in _ALLOCATING:
            self.operations[str(func)] += 1
        return out

    def _read(self, func: Any, source: torch.Tensor, kwargs: Mapping[str, Any]) -> Any:
        """Return the ones that stand for values which are read off the device, None where none are."""
        if func is aten._local_scalar_dense.default:
            self.waits.append(str(func))
            return torch.ones((), dtype=source.dtype).item()
        if func is aten._to_copy.default and torch.device(kwargs.get("device") or META).type == "cpu":
            self.waits.append(str(func))
            return torch.ones(source.shape, dtype=kwargs.get("dtype") or source.dtype)
        return None

    def _refuse(self, func: Any, args: Sequence[Any], there: Sequence[torch.Tensor]) -> None:
        if there and func in _SIZED_BY_VALUES:
            raise RuntimeError(f"{func}: the size of the result makes the host wait")
        by = args[1] if there and func in (aten.index.Tensor, aten.index_put_.default) else ()
        if any(index is not None and index.dtype == torch.bool for index in by):
            raise RuntimeError(f"{func} by a mask makes the host wait")


class _Lists(TorchFunctionMode):
    """Refuses tensors on the device that are made of lists: torch hides that it makes and copies them."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        made = func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)
        first = args[0] if args and isinstance(args[0], torch.Tensor) else torch.empty(0)
        if made and torch.device(kwargs.get("device") or first.device) == META:
            raise RuntimeError("a tensor made of a list makes the host wait")
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and first.device == META:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(one, list | np.ndarray) for one in index):
                raise RuntimeError("an index made of a list makes the host wait")
        return func(*args, **kwargs)


@contextmanager
def watched() -> Iterator[Watched]:
    """Watch a block of work on the meta device."""
    with _Lists(), Watched() as mode:
        yield mode
