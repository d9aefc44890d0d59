"""Reads damaged files in a process of its own, under a watch: what became of each, how long, how much memory.

Replay one by its number, in this process: `python -m tests.pipeline.sources.fuzzing.runner NUMBER`.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

HANG_SECONDS = 10.0
START_SECONDS = 60.0
ADDRESS_SPACE = 6 * 2**30
"""Keeps a runaway allocation from taking the machine down; what is allowed is measured, and far less."""

_ROOT = Path(__file__).resolve().parents[4]


@dataclass(frozen=True)
class Outcome:
    """What became of one damaged file.

    Attributes:
        number: the case.
        family: its family.
        text: `read N`, `refused: reason`, `crash: signal`, `hang`, `error: exception`, or `seeds missing`.
        seconds: time to read it.
        peak_mib: largest memory of the process while it was read, in MiB.
    """

    number: int
    family: str
    text: str
    seconds: float = 0.0
    peak_mib: float = 0.0

    @property
    def is_fine(self) -> bool:
        """Whether the file was read or refused as it should be."""
        return self.text.startswith(("read", "refused", "seeds missing"))


def run_cases(numbers: Iterable[int]) -> list[Outcome]:
    """Read cases one after another in a subprocess, which is started again after a crash or a hang."""
    waiting, found = list(numbers), []
    while waiting:
        ended = _run_until_death(waiting)
        found += ended
        waiting = waiting[len(ended) :]
    return found


def _run_until_death(numbers: list[int]) -> list[Outcome]:
    """Return outcomes up to the case that ended the process, with that one blamed."""
    command = [
        sys.executable,
        "-m",
        __name__ if __name__ != "__main__" else "tests.pipeline.sources.fuzzing.runner",
    ]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=_ROOT, env=environment
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(numbers).encode())
        process.stdin.close()
        found: list[Outcome] = []
        limit, buffered = START_SECONDS, b""
        while len(found) < len(numbers):
            ready, _, _ = select.select([process.stdout], [], [], limit)
            piece = os.read(process.stdout.fileno(), 65_536) if ready else b""
            if not piece:
                if not ready:
                    process.kill()
                code = process.wait()
                errors.seek(0)
                said = errors.read()[-300:].decode("utf-8", "replace")
                name = signal.Signals(-code).name if code < 0 else f"exit {code}: {said}"
                text = "hang" if not ready else f"crash: {name}"
                return [*found, Outcome(numbers[len(found)], "", text, limit if not ready else 0.0)]
            *lines, buffered = (buffered + piece).split(b"\n")
            for line in lines:
                # A line `[]` says that a case is made and that its reading begins.
                fields = json.loads(line)
                limit = START_SECONDS if fields else HANG_SECONDS
                if fields:
                    found.append(Outcome(*fields))
        process.wait()
        return found


def read_case(number: int, folder: Path, started: Callable[[], object] = bool) -> Outcome:
    """Make a case, read it the way a worker does, and say what became of it.

    Args:
        number: the case.
        folder: where its file is put for a moment.
        started: called as a reader begins.
    """
    from pipeline.errors import ScanRefusedError
    from pipeline.ingest.reading.geometry import black_and_white, to_square
    from pipeline.sources.base import ScanTask
    from pipeline.sources.reading import read_patient, read_scans
    from tests.pipeline.sources.fuzzing.cases import case

    made = case(number)
    if made is None:
        return Outcome(number, "", "seeds missing")
    path = folder / f"{number}.bin"
    path.write_bytes(made.data)
    task = ScanTask(replace(made.rule, root=str(folder)), path.name)
    family = made.family
    del made
    reset_peak()
    started()
    began, count = time.perf_counter(), 0
    try:
        with contextlib.suppress(ScanRefusedError):
            read_patient(task)
        # Ingest reads the patient and the scans apart: each has the whole time.
        started()
        began = time.perf_counter()
        for scan in read_scans(task):
            limits = scan.value_range or black_and_white(scan.pixels, (0.5, 99.5))
            to_square(
                scan.pixels, 32, fit="pad" if number % 2 else "crop", pixel_aspect=scan.pixel_aspect,
                black_white=limits, bit_depth=8,
            )  # fmt: skip
            count += 1
        text = f"read {count}"
    except ScanRefusedError as error:
        text = f"refused: {error.problem}"
    # A watch over all kinds: whatever else is raised is a defect, and named with its case.
    except BaseException as error:
        import traceback

        last = traceback.extract_tb(error.__traceback__)[-1]
        text = (
            f"error: {type(error).__name__}: {str(error)[:100]} at {Path(last.filename).name}:{last.lineno}"
        )
    seconds = time.perf_counter() - began
    path.unlink()
    return Outcome(number, family, text, round(seconds, 3), round(peak_mib(), 1))


def reset_peak() -> None:
    """Forget the largest memory so far, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_mib() -> float:
    """Return the largest memory of this process since the last reset, in MiB."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _serve() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    numbers = json.loads(sys.stdin.buffer.read())
    out = os.dup(1)
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            found = read_case(number, Path(folder), lambda: os.write(out, b"[]\n"))
            fields = [found.number, found.family, found.text, found.seconds, found.peak_mib]
            os.write(out, json.dumps(fields).encode() + b"\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        from tests.pipeline.sources.fuzzing.cases import case as _case

        with tempfile.TemporaryDirectory() as _folder:
            for _number in map(int, sys.argv[1:]):
                print(_case(_number))
                print(read_case(_number, Path(_folder)))
    else:
        _serve()
