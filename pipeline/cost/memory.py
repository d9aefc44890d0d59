"""How much memory this process has taken, and how much its tensors take on a GPU."""

from __future__ import annotations

import sys


def resident_bytes() -> int:
    """Return the largest resident memory that this process has had."""
    try:
        import resource
    except ImportError:
        return _peak_working_set()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_device_peak() -> None:
    """Begin to count anew what tensors take on the GPU; what lies there already is counted."""
    import torch

    from models.devices import default_device

    device = default_device()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def device_peak() -> int:
    """Return the most bytes that tensors have taken on the GPU since then, 0 without a GPU."""
    import torch

    from models.devices import default_device

    device = default_device()
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def _peak_working_set() -> int:
    """Return what Windows tells of this process in PROCESS_MEMORY_COUNTERS (psapi.h), in bytes."""
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
