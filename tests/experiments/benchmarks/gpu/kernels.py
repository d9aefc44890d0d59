"""Where the time of a training step goes on the device: the kernels that take longest."""

from __future__ import annotations

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from models.devices import default_device, synchronise
from models.optim.precision import Precision
from pipeline.records import CohortRef
from pipeline.train.settings import TrainSettings
from tests.experiments.benchmarks.gpu import loops
from tests.experiments.benchmarks.gpu.job import Job
from tests.experiments.benchmarks.rows import Row

TOP = 10
NAME_LENGTH = 70


def row(job: Job, cohort: CohortRef, settings: TrainSettings, precision: Precision) -> Row:
    """Profile a few steps; the figure is the share of the ten longest kernels, which the detail names."""
    device = default_device()
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    own = loops.trainer(cohort, settings, precision)
    try:
        for step in range(loops.WARM_UP):
            own.step(step)
        synchronise(device)
        with profile(activities=activities) as found:
            for step in range(job.sizes.profiled):
                own.step(loops.WARM_UP + step)
            synchronise(device)
    finally:
        own.feed.close()
    times = _times(found, device)
    whole = sum(times.values())
    longest = sorted(times.items(), key=lambda kernel: -kernel[1])[:TOP]
    words = "; ".join(f"{name[:NAME_LENGTH]} {seconds / whole:.1%}" for name, seconds in longest)
    share = sum(seconds for _, seconds in longest) / whole
    name = f"top {TOP} of {len(times)} kernels in a step's time on the device, {precision.name}"
    return Row(name, (share,), None, True, words)


def _times(found: profile, device: torch.device) -> dict[str, float]:
    """Return the microseconds of each kernel; on a CPU, of each operation itself."""
    events = found.key_averages()
    if device.type == "cuda":
        # The operations that launched them are listed too, with the same time.
        kernels = (event for event in events if event.device_type == DeviceType.CUDA)
        return {event.key: event.self_device_time_total for event in kernels}
    return {event.key: event.self_cpu_time_total for event in events if event.self_cpu_time_total}
