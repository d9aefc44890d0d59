"""A stand-in for an accelerator where there is none: torch's meta device, whose tensors have no values.

A real accelerator refuses an operation on tensors of two devices, and makes the host wait whenever a value is
read off it or memory of the host's is copied at once. Both stay unseen on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
_COPYING = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class NoWaiting(TorchDispatchMode):
    """Refuses operations on two devices, and copies between them that the host would wait for.

    Attributes:
        launched: operations on the pretended accelerator so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launched = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        devices = {leaf.device.type for leaf in given}
        if func is torch.ops.aten._to_copy.default and kwargs.get("device") is not None:
            devices.add(torch.device(kwargs["device"]).type)
        if len(devices) > 1:
            if func not in _COPYING:
                raise RuntimeError(f"{func} on two devices")
            waits = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            if waits:
                raise RuntimeError(f"{func} between {' and '.join(sorted(devices))} makes the host wait")
        self.launched += "meta" in devices
        return func(*args, **kwargs)


class _Generator(torch.Generator):
    """A source of random numbers of the meta device, which has none of its own."""

    def __new__(cls, *_device: Any) -> _Generator:
        return super().__new__(cls)

    @property
    def device(self) -> torch.device:
        return META


@contextmanager
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[NoWaiting]:
    """Watch a block of work on the meta device, for which torch's generators are made to stand."""
    original = torch.tensor

    def tensor(data: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        # On an accelerator it is made on the CPU and copied; on the meta device there is nothing to copy.
        return original(data, *args, **{**kwargs, "device": "cpu"}).to(kwargs.get("device"))

    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(torch, "Generator", _Generator)
    with NoWaiting() as mode:
        yield mode
