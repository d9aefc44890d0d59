"""`python -m tests.experiments.benchmarks [--slow] [--markdown] [NAME ...] [option=value ...]`."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from tests.experiments.benchmarks import machine
from tests.experiments.benchmarks.rows import MARKDOWN_HEAD, Row, Skipped

NAMES = (
    "training",
    "flops",
    "overhead",
    "distributed",
    "sampling",
    "ingest",
    "memory",
    "dry_run",
    "start",
    "gate",
    "study",
)
SLOW_NAMES = ("large_images", "time_to_quality", "evaluations")


def main(arguments: list[str] | None = None) -> int:
    """Print one line a ratio; the exit code is 1 when a goal is not met."""
    os.environ.setdefault("PHOSPHOR_KEY", "5e" * 32)
    parser = argparse.ArgumentParser(prog="python -m tests.experiments.benchmarks", description=__doc__)
    parser.add_argument("--slow", action="store_true", help=f"also the rows that take hours: {SLOW_NAMES}")
    parser.add_argument("--markdown", action="store_true", help="print the rows as a Markdown table")
    parser.add_argument("names", nargs="*", help=f"of {NAMES + SLOW_NAMES}, and option=value for them")
    chosen = parser.parse_args(arguments)
    names = [word for word in chosen.names if "=" not in word]
    unknown = set(names) - set(NAMES + SLOW_NAMES)
    if unknown:
        parser.error(f"unknown benchmark {sorted(unknown)}")
    names = names or [*NAMES, *(SLOW_NAMES if chosen.slow else ())]
    measures = {
        name: importlib.import_module(f"tests.experiments.benchmarks.{name}").measure for name in names
    }
    try:
        options = options_of(measures, [word for word in chosen.names if "=" in word])
    except ValueError as error:
        parser.error(str(error))
    _print_machine()
    if chosen.markdown:
        print(MARKDOWN_HEAD, flush=True)
    all_met = True
    for name, measure in measures.items():
        rows: Iterable[Row | Skipped] = measure(**options[name])
        for row in rows:
            print(row.markdown() if chosen.markdown else row.text(), flush=True)
            all_met &= row.met
    return 0 if all_met else 1


def options_of(measures: dict[str, Callable[..., Any]], words: list[str]) -> dict[str, dict[str, Any]]:
    """Return each benchmark's keyword arguments from words `option=value`.

    An option goes to every chosen benchmark that has a parameter of this name; its value is read as the type
    of that parameter's default.

    Raises:
        ValueError: no chosen benchmark has such an option, or the value is not of its type.
    """
    options: dict[str, dict[str, Any]] = {name: {} for name in measures}
    for word in words:
        key, _, text = word.partition("=")
        taking = [name for name in measures if key in inspect.signature(measures[name]).parameters]
        if not taking:
            raise ValueError(f"none of {', '.join(measures)} has an option {key}")
        for name in taking:
            default = inspect.signature(measures[name]).parameters[key].default
            try:
                options[name][key] = type(default)(text)
            except ValueError as error:
                raise ValueError(f"{key} of {name} must be like {default!r}, got {text!r}") from error
    return options


def _print_machine() -> None:
    busy = machine.busy_share()
    print(f"machine: {machine.describe()}; {busy:.0%} busy at the start", flush=True)
    if busy > machine.LARGEST_BUSY_SHARE:
        print("the machine is not idle: these figures are void", flush=True)
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
