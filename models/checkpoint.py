"""Named tensors on disk: safetensors with one JSON header, written atomically and checked when read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

HEADER_KEY = "phosphor"
MAX_HEADER_CHARACTERS = 1_000_000
_SHOWN_NAMES = 4


@dataclass(frozen=True)
class TensorFile:
    """Contents of a tensor file.

    Attributes:
        tensors: name -> tensor, on the CPU.
        metadata: the JSON header.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header atomically: ``path`` holds either the old or the new content.

    Equal tensors and metadata give equal bytes.

    Args:
        path: file to write; its folder exists.
        tensors: name -> tensor of any device; stored contiguous.
        metadata: JSON-serialisable values.

    Raises:
        ValueError: ``metadata`` cannot be written as JSON, or a value is not finite.
        OSError: the file cannot be written.
    """
    try:
        header = json.dumps(dict(metadata), sort_keys=True, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"metadata must be JSON-serialisable: {error}") from error
    stored = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # safetensors sorts tensors but shuffles header keys: hence a single key.
        try:
            save_file(stored, temporary, metadata={HEADER_KEY: header})
        except SafetensorError as error:
            raise _as_os_error(error) from error
        # Opened for writing: Windows does not flush other files.
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o600)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: Path, expected: Mapping[str, Tensor] | None = None) -> TensorFile:
    """Read and check a file of ``write_tensors``.

    Args:
        path: file to read.
        expected: name -> tensor whose shape and dtype the stored one must have; None skips this check.

    Raises:
        ValueError: not a file of ``write_tensors``; unexpected names, shapes, dtypes or header; or a tensor
            holds a value that is not finite.
        OSError: the file cannot be read.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as stream:
            header = (stream.metadata() or {}).get(HEADER_KEY)
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise ValueError(f"{path.name} is not a readable safetensors file: {error}") from error
    metadata = _parse_header(path, header)
    if expected is not None:
        _compare(path, tensors, expected)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{path.name}: tensor {name} holds values that are not finite")
    return TensorFile(tensors, metadata)


def load_into(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into a model in place, keeping its device and memory layout.

    Raises:
        ValueError: names, shapes or dtypes differ.
    """
    state = model.state_dict()
    _compare(None, tensors, state)
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(tensors[name])


def _parse_header(path: Path, header: str | None) -> dict[str, Any]:
    if header is None or len(header) > MAX_HEADER_CHARACTERS:
        raise ValueError(f"{path.name} holds no {HEADER_KEY} header, or one too long")
    try:
        metadata = json.loads(header)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path.name}: the {HEADER_KEY} header is not JSON") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path.name}: the {HEADER_KEY} header is not a JSON object")
    return metadata


def _compare(path: Path | None, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    where = f"{path.name}: " if path else ""
    missing = sorted(set(expected) - set(tensors))
    if missing:
        raise ValueError(f"{where}misses {len(missing)} tensors, among them {missing[:_SHOWN_NAMES]}")
    unknown = sorted(set(tensors) - set(expected))
    if unknown:
        raise ValueError(f"{where}holds {len(unknown)} unknown tensors, among them {unknown[:_SHOWN_NAMES]}")
    for name, wanted in expected.items():
        found = tensors[name]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise ValueError(
                f"{where}tensor {name} is {found.dtype} {tuple(found.shape)}, "
                f"expected {wanted.dtype} {tuple(wanted.shape)}"
            )


def _as_os_error(error: SafetensorError) -> OSError:
    """Return an OSError with the errno that safetensors reports as text, which callers depend on."""
    text = str(error)
    _, _, tail = text.partition("os error ")
    digits = tail.split(")")[0]
    return OSError(int(digits), text) if digits.isdigit() else OSError(text)
