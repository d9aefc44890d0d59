"""Runs the parts of the GPU proof one after the other, each in a process of its own and within its time."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.experiments.benchmarks.gpu.job import Job, Part
from tests.experiments.benchmarks.gpu.sizes import Sizes
from tests.experiments.benchmarks.rows import Row, Skipped

GRACE_SECONDS = 5.0
"""How long a part may go past its time before it is ended: it looks at the clock between measurements."""
ERROR_LENGTH = 1500


@dataclass
class PartResult:
    """What a part showed.

    Attributes:
        name, title: of the part.
        planned: its share of the time and what the parts before it had left; seconds: what it took.
        rows: its figures.
        error: why it ended before its end; empty if it did not.
    """

    name: str
    title: str
    planned: float
    seconds: float = 0.0
    rows: list[Row | Skipped] = field(default_factory=list)
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        names = ("name", "title", "planned", "seconds", "error")
        kept = {name: getattr(self, name) for name in names}
        return {**kept, "rows": [row.to_dict() for row in self.rows]}


def scaled(parts: Sequence[Part]) -> list[Part]:
    """Return parts with their shares raised so that they add up to 1."""
    whole = sum(part.share for part in parts)
    return [replace(part, share=part.share / whole) for part in parts]


def run_parts(
    parts: Sequence[Part],
    sizes: Sizes,
    out: Path,
    seconds: float,
    *,
    show: Callable[[str], None],
    goals: bool = True,
) -> Iterator[PartResult]:
    """Run parts in order and yield each one's result as soon as it is there.

    A part ends by the sum of the shares up to its own: what one leaves, those after it have. One that does
    not end by itself is killed with all that it started; what it showed by then stays.

    Args:
        parts: the parts; their shares add up to 1.
        sizes: how much each does.
        out: folder of the report.
        seconds: time of all parts together.
        show: called with a line for each figure as it comes.
        goals: whether figures are held against their goals, which are those of a real run.
    """
    # Forked, so that a part begins with everything imported; this process must not touch the device itself.
    context = multiprocessing.get_context("fork")
    started, share = time.monotonic(), 0.0
    for part in parts:
        share += part.share
        until = started + share * seconds
        begun = time.monotonic()
        result = PartResult(part.name, part.title, max(0.0, until - begun))
        show(f"{part.title} ({result.planned:.0f} s)")
        with tempfile.TemporaryDirectory(prefix="phosphor-gpu-", ignore_cleanup_errors=True) as scratch:
            shown = Path(scratch) / "rows.jsonl"
            shown.touch()
            job = Job(sizes, until, Path(scratch), out)
            process = context.Process(target=_work, args=(part, job, shown))
            process.start()
            with shown.open(encoding="utf-8") as stream:
                while process.is_alive() and time.monotonic() < until + GRACE_SECONDS:
                    process.join(0.2)
                    _collect(stream, result, show, goals)
                if process.is_alive():
                    result.error = f"ended after its {result.planned:.0f} s"
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid or 0, signal.SIGKILL)
                process.join()
                _collect(stream, result, show, goals)
            if not result.error and process.exitcode:
                result.error = f"ended with code {process.exitcode}"
        result.seconds = time.monotonic() - begun
        if result.error:
            show(f"  {part.name}: {result.error}")
        yield result


def _work(part: Part, job: Job, shown: Path) -> None:
    """Do a part in this process and write each figure as a line, an error as the last one."""
    os.setsid()
    with shown.open("a", encoding="utf-8") as stream:

        def write(kind: str, body: dict[str, Any]) -> None:
            stream.write(json.dumps({"kind": kind, **body}) + "\n")
            stream.flush()

        try:
            for row in part.run(job):
                write("row" if isinstance(row, Row) else "skipped", row.to_dict())
        except BaseException as error:
            text = "".join(traceback.format_exception(error))
            write("error", {"text": f"{type(error).__name__}: {error}"[:ERROR_LENGTH]})
            sys.stderr.write(text)
            sys.stderr.flush()
            # As it is: threads or a communicator of a part that failed might wait for ever.
            os._exit(1)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


def _collect(stream: Any, result: PartResult, show: Callable[[str], None], goals: bool) -> None:
    while line := stream.readline():
        body = json.loads(line)
        kind = body.pop("kind")
        if kind == "error":
            result.error = body["text"]
            continue
        body.pop("met", None)
        row: Row | Skipped
        if kind == "row":
            row = Row(**{**body, "ratios": tuple(float(value) for value in body["ratios"])})
            row = row if goals else replace(row, goal=None)
        else:
            row = Skipped(**body)
        result.rows.append(row)
        show(f"  {row.text()}")
