"""Free memory: of the machine, and below the limit of a container."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.cost import free_memory as module
from pipeline.cost.free_memory import free_memory

CPU, MIB = torch.device("cpu"), 2**20


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in place of /proc and /sys, of a machine with 8 GiB available."""
    (tmp_path / "meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable:    8388608 kB\n")
    (tmp_path / "cgroup").write_text("")
    for name, path in (("MEMINFO", "meminfo"), ("GROUPS", "cgroup"), ("MOUNT", "mount")):
        monkeypatch.setattr(module, name, tmp_path / path)
    return tmp_path


def limit(folder: Path, names: tuple[str, str], most: str, used: int, cached: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{most}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(cached)


V2, V1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")


def test_this_machine_says_how_much_is_free() -> None:
    found = free_memory(CPU)
    if not module.MEMINFO.exists():
        pytest.skip("no /proc/meminfo on this system")
    assert found is not None and 2**24 < found < 2**50


def test_without_a_limit_it_is_what_the_machine_has(system: Path) -> None:
    assert free_memory(CPU) == 8 * 2**30
    (system / "cgroup").write_text("0::/user.slice\n")
    limit(system / "mount" / "user.slice", V2, "max", 100 * MIB)
    assert free_memory(CPU) == 8 * 2**30


@pytest.mark.parametrize("inside", [True, False])
def test_a_container_has_the_room_below_its_limit_and_its_page_cache(system: Path, inside: bool) -> None:
    (system / "cgroup").write_text("0::/docker/abc\n")
    folder = system / "mount" if inside else system / "mount" / "docker" / "abc"
    limit(folder, V2, str(1024 * MIB), 400 * MIB, f"anon 5\ninactive_file {100 * MIB}\n")
    assert free_memory(CPU) == 724 * MIB


def test_version_1_of_control_groups_is_read_too(system: Path) -> None:
    (system / "cgroup").write_text("9:name=systemd:/\n4:memory:/job\n2:cpu,cpuacct:/\n")
    limit(
        system / "mount" / "memory" / "job", V1, str(512 * MIB), 500 * MIB, f"total_inactive_file {8 * MIB}\n"
    )
    assert free_memory(CPU) == 20 * MIB


def test_a_system_that_does_not_say_is_not_guessed(system: Path) -> None:
    (system / "meminfo").unlink()
    assert free_memory(CPU) is None
    assert free_memory(torch.device("mps")) is None
