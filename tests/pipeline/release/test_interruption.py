"""A release that is killed, or runs out of disk, leaves nothing at its name and what was there intact."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import OutputExistsError, StorageError
from pipeline.release import ReleaseSettings, run_release, verify_release
from pipeline.release.publish import estimate_bytes, leftovers, release_lock
from tests.pipeline.release.sets import make_audit, make_candidates

REPOSITORY = Path(__file__).resolve().parents[3]
PER_CLASS = 150


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.pipeline.release.sets", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Return candidates and audit that take a while to release, and the undisturbed content digest."""
    root = tmp_path_factory.mktemp("many")
    candidates = make_candidates(root / "candidates", per_class=PER_CLASS, size=32)
    audit = make_audit(root / "audit", candidates)
    digest = run_release(candidates, audit, root / "release", ReleaseSettings(), seed=1).digest
    return candidates, audit, digest


def wait_for_images(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if len(list(out.parent.glob(f".{out.name}.partial-*/images/*/*.png"))) >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    raise AssertionError("the release did not begin")


@pytest.mark.parametrize("count", [1, PER_CLASS, 2 * PER_CLASS - 2])
def test_a_killed_release_leaves_nothing_and_the_next_run_gives_the_same_content(
    many: tuple[Path, Path, str], tmp_path: Path, count: int
) -> None:
    candidates, audit, digest = many
    out = tmp_path / "release"
    process = start(candidates, audit, out)
    wait_for_images(out, count, process)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    assert not out.exists()
    assert len(leftovers(out)) == 1
    assert leftovers(out)[0].stat().st_mode & 0o077 == 0
    assert run_release(candidates, audit, out, ReleaseSettings(), seed=1).digest == digest
    assert leftovers(out) == []


def test_a_killed_replacement_leaves_the_earlier_release(
    many: tuple[Path, Path, str], gated: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "release"
    earlier = run_release(*gated, out, ReleaseSettings(), seed=1)
    process = start(many[0], many[1], out, str(2**40), "--force")
    wait_for_images(out, 10, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert verify_release(out) == earlier


def test_a_write_that_fails_for_space_is_one_message_and_leaves_nothing(
    gated: tuple[Path, Path], tmp_path: Path
) -> None:
    process = start(*gated, tmp_path / "out" / "release", "1200")
    said, traced = process.communicate()
    assert (process.returncode, traced) == (1, "")
    assert said.startswith("StorageError")
    assert "no space left" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".release.lock"]


def test_a_disk_that_is_too_small_is_refused_before_writing(gated: tuple[Path, Path], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = [shutil.which("mount") or "mount", "-t", "tmpfs", "-o", "size=512k", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        with pytest.raises(StorageError, match="MiB are needed"):
            run_release(*gated, disk / "release", ReleaseSettings(), seed=1)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize(("size", "bit_depth"), [(16, 8), (33, 16)])
def test_the_estimate_covers_what_is_written(tmp_path: Path, size: int, bit_depth: int) -> None:
    candidates = make_candidates(tmp_path / "c", per_class=40, size=size, bit_depth=bit_depth)
    audit = make_audit(tmp_path / "a", candidates)
    run_release(candidates, audit, tmp_path / "release", ReleaseSettings(), seed=1)
    written = sum(path.stat().st_blocks * 512 for path in (tmp_path / "release").rglob("*"))
    assert written <= estimate_bytes(78, (size, size), bit_depth)


def test_two_releases_to_one_name_do_not_mix(gated: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "release"
    with release_lock(out), pytest.raises(OutputExistsError, match="another process"):
        run_release(*gated, out, ReleaseSettings(), seed=1)
    run_release(*gated, out, ReleaseSettings(), seed=1)
