"""The report of the GPU proof: the machine, every figure with its rounds, what was not reached."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.experiments.benchmarks.gpu.runner import PartResult
from tests.experiments.benchmarks.rows import MARKDOWN_HEAD, Skipped


def machine_facts() -> dict[str, Any]:
    """Return chip, driver, versions and host; called in a process that may touch the device."""
    import torch

    from models.devices import default_device
    from tests.experiments.benchmarks.machine import processor_name

    device = default_device()
    facts: dict[str, Any] = {
        "device": device.type,
        "chip": processor_name(),
        "driver": "",
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "cudnn": str(torch.backends.cudnn.version() or ""),
        "python": platform.python_version(),
        "host": f"{processor_name()}, {os.cpu_count()} cores",
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["chip"] = properties.name
        facts["memory_gib"] = round(properties.total_memory / 2**30, 1)
        facts["multiprocessors"] = properties.multi_processor_count
        facts["driver"] = _driver()
    for name in ("monai", "triton"):
        with contextlib.suppress(PackageNotFoundError):
            facts[name] = version(name)
    return facts


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else ""


def write_report(
    folder: Path, facts: dict[str, Any], results: Sequence[PartResult], *, rehearsed: bool
) -> str:
    """Write `gpu.json` and `gpu.md` to a folder; return the Markdown."""
    body = {"rehearsed": rehearsed, "machine": facts, "parts": [result.to_dict() for result in results]}
    (folder / "gpu.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    text = markdown(facts, results, rehearsed=rehearsed)
    (folder / "gpu.md").write_text(text, encoding="utf-8")
    return text


def markdown(facts: dict[str, Any], results: Sequence[PartResult], *, rehearsed: bool) -> str:
    """Return the report as Markdown: one table a part, then what was not reached."""
    named = ", ".join(
        f"{key} {value}" for key, value in facts.items() if value and key not in ("chip", "device")
    )
    lines = [f"# {facts['chip']} ({facts['device']})", "", named, ""]
    if rehearsed:
        lines += ["A rehearsal at tiny sizes: the figures say that the code runs, and nothing else.", ""]
    for result in results:
        lines += [f"## {result.title}", ""]
        lines += [f"{result.seconds:.0f} of {result.planned:.0f} s. {_ended(result)}".rstrip(), ""]
        lines += [MARKDOWN_HEAD, *(row.markdown() for row in result.rows), ""]
    missed = [
        f"- {result.title}: {row.name}: {row.reason}"
        for result in results
        for row in result.rows
        if isinstance(row, Skipped)
    ]
    missed += [f"- {result.title}: {result.error}" for result in results if result.error]
    return "\n".join([*lines, "## Not measured", "", *(missed or ["Nothing."]), ""])


def _ended(result: PartResult) -> str:
    return f"Not finished: {result.error.splitlines()[0]}" if result.error else ""
