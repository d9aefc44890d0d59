"""Lets this process do no more than Windows does, and runs the CPU path in it: `python -m tests.windows OUT`.

What is not there: the POSIX-only modules, and in `os` and `signal` the names that only POSIX has. What is
refused: to move or remove what is open or mapped, to rename onto something, to flush a folder or a file that
was opened for reading, to load the C library by no name. Text files are cp1252 with CRLF unless they say
otherwise. Three things cannot be had here: another separator of paths, file names without case, and files
without modes. Only Phosphor's own modules get the poorer `os` and `signal`: packages of others are imported
before, as they are built for the system that they run on.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import errno
import importlib
import io
import json
import os
import pkgutil
import re
import shutil
import signal
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

PEAK_BYTES = 123_000_000
MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog")
OTHERS = (
    "asyncio", "concurrent.futures.process", "filelock", "matplotlib.figure", "monai.networks.nets",
    "multiprocessing.popen_spawn_posix", "nibabel", "numpy", "pandas", "PIL.Image", "platformdirs",
    "prefect.events.worker", "prefect.flows", "prefect.logging.handlers", "pyarrow.parquet", "pydantic",
    "pydicom", "requests", "rich.progress", "safetensors.torch", "scipy.ndimage", "scipy.stats",
    "sklearn.metrics", "sqlite3", "subprocess", "torch", "typer", "yaml",
)  # fmt: skip
"""Packages of others that Phosphor's modules import, and what these import when they are first used."""

ONLY_POSIX = re.compile(
    r"(f?statvfs|f?pathconf|sysconf|confstr|.*(uid|gid|groups?|pgrp|sid|priority)|fork.*|posix_\w+|.*pread.*"
    r"|.*pwrite.*|readv|writev|wait|wait3|wait4|waitid|sched_\w+|killpg|nice|l?chown|l?chmod|fchown|fchmod"
    r"|fchdir|chroot|mkfifo|mknod|sync|fdatasync|uname|getloadavg|register_at_fork|openpty|ttyname|ctermid"
    r"|sendfile|lockf|\w+xattr|memfd_create|copy_file_range|splice|eventfd\w*|[A-Z]+_.*|W[A-Z]+)$"
)
"""Names of `os` that Windows lacks (constants too, but for those of `KEPT`)."""

KEPT = re.compile(
    r"(O_(RDONLY|WRONLY|RDWR|APPEND|CREAT|EXCL|TRUNC)|[FRWX]_OK|SEEK_\w+|P_\w+|getp?p?id|chmod)$"
)
SIGNALS = re.compile(r"(SIG(INT|TERM|ABRT|FPE|ILL|SEGV|_DFL|_IGN)|[a-z]\w*|Signals|Handlers|_.*)$")


def pretend() -> None:
    """Make this process as poor as one of Windows; called before any module of Phosphor is imported."""
    for name in OTHERS:
        importlib.import_module(name)
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    _refuse_what_windows_refuses()
    poorer = {
        "os": _without(os, lambda name: not ONLY_POSIX.match(name) or bool(KEPT.match(name))),
        "signal": _without(signal, lambda name: bool(SIGNALS.match(name))),
    }
    poorer["os"].name = "nt"  # type: ignore[attr-defined]
    real = {name: sys.modules[name] for name in poorer}
    sys.modules.update(poorer)
    import_all()
    sys.modules.update(real)


def import_all() -> None:
    """Import every module of the three packages."""
    for package in ("models", "pipeline", "flows"):
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)


def _without(module: types.ModuleType, stays: Callable[[str], bool]) -> types.ModuleType:
    copy = types.ModuleType(module.__name__)
    copy.__dict__.update({name: value for name, value in vars(module).items() if stays(name)})
    return copy


def _refuse_what_windows_refuses() -> None:
    real_open, real_fsync, real_file, library = os.open, os.fsync, io.open, ctypes.CDLL

    def open_file(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if isinstance(path, str | Path) and Path(path).is_dir():
            raise PermissionError(errno.EACCES, "a folder is no file", str(path))
        return real_open(path, flags, *args, **kwargs)

    def fsync(handle: int) -> None:
        flags = int(re.findall(r"flags:\s*(\d+)", Path(f"/proc/self/fdinfo/{handle}").read_text())[0], 8)
        if flags & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "opened for reading only")
        real_fsync(handle)

    def text_file(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(("encoding", "errors", "newline", "closefd", "opener"), args, strict=False)) | kwargs
        if "b" not in mode:
            given["encoding"] = given.get("encoding") or "cp1252"
            if mode != "r" and given.get("newline") is None:
                given["newline"] = "\r\n"
        return real_file(file, mode, buffering, **given)

    class Library(library):  # type: ignore[misc,valid-type]
        def __init__(self, name: str | None, *args: Any, **kwargs: Any) -> None:
            if name is None:
                raise TypeError("there is no library without a name")
            super().__init__(name, *args, **kwargs)

    ctypes.WinDLL = _Kernel  # type: ignore[attr-defined]
    for name in ("replace", "rename", "unlink", "remove", "rmdir"):
        setattr(os, name, unless_open(name, getattr(os, name)))
    os.open, os.fsync, ctypes.CDLL = open_file, fsync, Library  # type: ignore[assignment,misc]
    io.open = builtins.open = text_file  # type: ignore[assignment]
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    tempfile.TemporaryFile = tempfile.NamedTemporaryFile  # type: ignore[assignment]


class _Kernel:
    """What is asked of kernel32: the largest memory of this process."""

    def __init__(self, name: str) -> None:
        assert name == "kernel32"
        self.GetCurrentProcess = _Answer(lambda: -1)
        self.K32GetProcessMemoryInfo = _Answer(self._tell)

    @staticmethod
    def _tell(_process: int, counters: Any, size: int) -> int:
        told = (ctypes.c_size_t * 9).from_buffer(counters._obj)
        assert size == ctypes.sizeof(told) == 72
        told[1] = PEAK_BYTES
        return 1


class _Answer:
    def __init__(self, call: Callable[..., int]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> int:
        return self._call(*arguments)


def unless_open(name: str, call: Callable[..., None]) -> Callable[..., None]:
    """Return a function of `os` that moves or removes as Windows does: nothing that this process uses."""

    def guarded(path: Any, *others: Any, **kwargs: Any) -> None:
        for touched in (path, *others):
            if found := open_in(os.path.realpath(touched)):
                raise PermissionError(errno.EACCES, f"{name}: in use", found)
        target = Path(others[0]) if others else None
        if target is not None and (target.is_dir() or (name == "rename" and target.exists())):
            raise PermissionError(errno.EACCES, f"{name}: the target is there", str(target))
        call(path, *others, **kwargs)

    return guarded


def open_in(path: str) -> str:
    """Return a file at `path`, or below it, that this process has open or mapped; empty if there is none."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    used = {line.split(maxsplit=5)[5] for line in maps if "/" in line}
    for handle in Path("/proc/self/fd").iterdir():
        # The handle of the listing itself is gone by now.
        with contextlib.suppress(FileNotFoundError):
            used.add(str(handle.readlink()))
    return next((name for name in used if name == path or name.startswith(f"{path}/")), "")


def run_stages(out: Path) -> dict[str, str]:
    """Run every stage on a tiny phantom cohort, each twice; return their digests."""
    from pipeline.evaluate import run_evaluate
    from pipeline.ingest import run_ingest
    from pipeline.manifest import load_manifest
    from pipeline.privacy import run_audit
    from pipeline.recipe import load_recipe
    from pipeline.release import run_release
    from pipeline.report import write_report
    from pipeline.sample import run_sample
    from pipeline.train import run_train
    from tests.flows.conftest import MICRO, PHANTOM

    recipe = load_recipe("smoke", [*MICRO, "release.policy=research", "train.num_threads=1"])
    manifest, seed = load_manifest(PHANTOM), recipe.seed
    for _ in range(2):
        cohort = run_ingest(manifest, out / "cohort", recipe.ingest)
        checkpoint = run_train(cohort, out / "checkpoint", recipe.train, seed=seed)
        candidates = run_sample(checkpoint, out / "candidates", recipe.sample, seed=seed)
        audit = run_audit(
            candidates.path, cohort.path, out / "audit", recipe.audit, seed=seed, checkpoint=checkpoint.path
        )
        release = run_release(candidates.path, audit.path, out / "release", recipe.release, seed=seed)
        evaluation = run_evaluate(release.path, cohort.path, out / "evaluation", recipe.evaluate, seed=seed)
        write_report(out)
    made = (cohort, checkpoint, candidates, audit, release, evaluation)
    run_ingest(manifest, out / "cohort", recipe.ingest.model_copy(update={"split_seed": 1}), force=True)
    return {reference.stage: reference.digest for reference in made}


if __name__ == "__main__":
    if "--pretend" in sys.argv:
        pretend()
        # Else nothing would be shown here.
        assert sys.modules["pipeline.storage"].ON_WINDOWS
        assert sys.modules["pipeline.cost.memory"].resident_bytes() == PEAK_BYTES
    print(json.dumps(run_stages(Path(sys.argv[1]))))
