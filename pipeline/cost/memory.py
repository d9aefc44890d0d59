"""Peak memory of this process, and of its tensors on a GPU."""

from __future__ import annotations

import sys


def bytes_words(count: float) -> str:
    """Return a number of bytes in MiB or GiB."""
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"


def resident_bytes() -> int:
    """Return the peak resident memory of this process in bytes."""
    try:
        import resource
    except ImportError:
        return _peak_working_set()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_device_peak() -> None:
    """Reset the peak of the tensors' GPU memory; tensors that exist now are counted."""
    import torch

    from models.devices import default_device

    device = default_device()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def device_peak() -> int:
    """Return the peak GPU memory of tensors since the last reset in bytes, 0 without a GPU."""
    import torch

    from models.devices import default_device

    device = default_device()
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def _peak_working_set() -> int:
    """Return the peak working set from PROCESS_MEMORY_COUNTERS of Windows (psapi.h), in bytes."""
    import ctypes
    from ctypes import wintypes

    class Counters(ctypes.Structure):
        _fields_ = (
            ("cb", ctypes.c_uint32),
            ("PageFaultCount", ctypes.c_uint32),
            ("PeakWorkingSetSize", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 7),
        )

    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
    kernel.GetCurrentProcess.restype = wintypes.HANDLE
    kernel.K32GetProcessMemoryInfo.argtypes = (wintypes.HANDLE, ctypes.POINTER(Counters), ctypes.c_uint32)
    counters = Counters()
    process, size = kernel.GetCurrentProcess(), ctypes.sizeof(Counters)
    kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), size)
    return int(counters.PeakWorkingSetSize)
