"""Keeps freed memory for the next step instead of returning it to the system."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator

from models.devices import choices, default_device

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_HELD = 2**31 - 1
"""Bytes: mallopt takes a C int."""
_DEFAULT_TRIM, _DEFAULT_PAD, _DEFAULT_MAP = 128 * 2**10, 128 * 2**10, 32 * 2**20
"""glibc's defaults; the last is the largest value that its own adjustment would reach."""


@contextlib.contextmanager
def held_memory() -> Iterator[None]:
    """Keep freed memory of CPU tensors inside the block; return it at the end.

    By default glibc maps every large tensor anew, and the kernel clears each of its pages again, which takes
    a tenth of a training step on a CPU. Results do not change. This does nothing with another C library, or
    if tensors are on an accelerator.
    """
    libc = _glibc() if choices(default_device()).keeps_heap else None
    if libc is None:
        yield
        return
    if not libc.mallopt(_M_MMAP_THRESHOLD, _HELD):
        # Older versions of glibc accept no more; without this, the next line would fix it at 128 KiB.
        libc.mallopt(_M_MMAP_THRESHOLD, _DEFAULT_MAP)
    libc.mallopt(_M_TRIM_THRESHOLD, _HELD)
    libc.mallopt(_M_TOP_PAD, 64 * 2**20)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_THRESHOLD, _DEFAULT_MAP)
        libc.mallopt(_M_TRIM_THRESHOLD, _DEFAULT_TRIM)
        libc.mallopt(_M_TOP_PAD, _DEFAULT_PAD)
        libc.malloc_trim(0)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """Return the C library of this process if it is glibc."""
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version.restype = ctypes.c_char_p
        libc.gnu_get_libc_version()
    except (OSError, AttributeError, TypeError):
        return None
    return libc
