"""Live progress on stderr: a bar on a terminal, a plain line every few seconds otherwise."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import Protocol

logger = logging.getLogger(__name__)

LINE_SECONDS = 10.0


class Progress(Protocol):
    """Progress display of a long loop."""

    def update(self, advance: int = 1, **facts: float | str) -> None:
        """Advance by `advance` units and show facts (loss=0.12, images_per_second=180, ...)."""

    def set_total(self, total: int) -> None:
        """Change the total."""


class Silent:
    """Progress without a display, for work that is only timed."""

    def update(self, advance: int = 1, **facts: float | str) -> None:
        """Show nothing."""

    def set_total(self, total: int) -> None:
        """Show nothing."""


class _Lines:
    def __init__(self, description: str, total: int, done: int, unit: str) -> None:
        self._description, self._total, self._done, self._unit = description, total, done, unit
        self._started = self._shown = time.monotonic()
        self._first = done

    def update(self, advance: int = 1, **facts: float | str) -> None:
        self._done += advance
        now = time.monotonic()
        if now - self._shown >= LINE_SECONDS or self._done >= self._total:
            self._shown = now
            rate = (self._done - self._first) / max(now - self._started, 1e-9)
            left = max(self._total - self._done, 0) / rate if rate > 0 else float("inf")
            text = f"{self._description}: {self._done}/{self._total} {self._unit}, {left:.0f} s left"
            logger.info("%s%s", text, _facts(facts))

    def set_total(self, total: int) -> None:
        self._total = total


class _Bar:
    def __init__(self, bar: object, task: object) -> None:
        self._bar, self._task = bar, task

    def update(self, advance: int = 1, **facts: float | str) -> None:
        self._bar.update(self._task, advance=advance, facts=_facts(facts))  # type: ignore[attr-defined]

    def set_total(self, total: int) -> None:
        self._bar.update(self._task, total=total)  # type: ignore[attr-defined]


@contextlib.contextmanager
def track(description: str, total: int, *, done: int = 0, unit: str = "items") -> Iterator[Progress]:
    """Open a progress display for `total` units, of which `done` are already finished."""
    if not sys.stderr.isatty():
        yield _Lines(description, total, done, unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        yield _Bar(bar, bar.add_task(description, total=total, completed=done, facts=""))


def _facts(facts: dict[str, float | str]) -> str:
    shown = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in facts.items()
    ]
    return ", " + ", ".join(shown) if shown else ""
