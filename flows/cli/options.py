"""Parts shared by all commands: options, exit codes, one message for an error, one JSON line at the end."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.logs import debugging, set_up_logs, where_raised, write_failure
from pipeline.errors import KEPT, PhosphorError

if TYPE_CHECKING:
    from pipeline.recipe import Recipe
    from pipeline.records import Reference

EXIT_UNEXPECTED = 1
EXIT_INTERRUPTED = 130

Out = Annotated[Path, typer.Option("--out", help="Output directory.", show_default=False)]
RECIPE_HELP = "Recipe: smoke, cpu, cpu-224, gpu, gpu-256, gpu-512, study, or the path of a YAML file."
RecipeName = Annotated[str, typer.Option("--recipe", help=RECIPE_HELP)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one recipe key; may be given several times."),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Replace an output of other inputs; it is kept until the new one is done."),
]
TestCohorts = Annotated[
    list[Path] | None,
    typer.Option(
        "--test-cohort",
        help="Cohort directory of another site, for an external test; may be given several times.",
        show_default=False,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print what would be done, with estimated time, memory and disk; write nothing."
    ),
]


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Turn every error of a command into one message on stderr and the exit code of its kind.

    2, 3 and 4 come from the error classes of `pipeline.errors`; 130 is an interrupt; anything else is 1, with
    the traceback in a private file (or on stderr under `--debug`) because it may hold patient data.
    """
    set_up_logs()
    try:
        yield
    except PhosphorError as error:
        if debugging():
            raise
        # The same command cannot fix an error of the command or the data, or a refusal of the gate.
        _say(f"Error: {error}{_kept(error) if error.exit_code == EXIT_UNEXPECTED else ''}")
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt as error:
        _say(f"Stopped.{_kept(error)}")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except typer.Exit:
        raise
    except Exception as error:
        if debugging():
            raise
        try:
            told = f"The traceback is in {write_failure(error)} (private: it may hold patient data)."
        except (OSError, PhosphorError):
            told = "Run it with --debug before the command to see the traceback."
        _say(f"Error: unexpected {where_raised(error)}. {told}{_kept(error)}")
        raise typer.Exit(EXIT_UNEXPECTED) from None


def emit(body: Reference | Mapping[str, Any], **more: Any) -> None:
    """Print the last line of stdout: one JSON object, with other values if there are `more`."""
    if not isinstance(body, Mapping):
        body = {"stage": body.stage, **body.model_dump(mode="json")}
    sys.stdout.write(json.dumps({**body, **more}, sort_keys=True) + "\n")
    sys.stdout.flush()


def read_recipe(
    name: str, overrides: list[str] | None, shorthand: Mapping[str, object] | None = None
) -> Recipe:
    """Load the recipe with `--set` overrides, then the command's own options that were given."""
    from pipeline.recipe import load_recipe

    return load_recipe(name, with_shorthand(overrides, shorthand or {}))


def with_shorthand(overrides: list[str] | None, shorthand: Mapping[str, object]) -> list[str]:
    """Return `--set` overrides, followed by the command's own options that were given."""
    extra = [f"{key}={json.dumps(value)}" for key, value in shorthand.items() if value is not None]
    return [*(overrides or []), *extra]


def _kept(error: BaseException) -> str:
    """Return the note that finished work is kept, if the stage has checked that it is."""
    return f" {KEPT}" if KEPT in getattr(error, "__notes__", ()) else ""


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
