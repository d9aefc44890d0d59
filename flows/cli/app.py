"""The `phosphor` command, assembled from the commands in the other modules."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from flows.cli import checks, edit, recipes, run, stages
from flows.logs import DEBUG_VARIABLE

app = typer.Typer(
    name="phosphor",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

for _command in (
    run.run,
    run.study,
    stages.ingest,
    stages.train,
    stages.sample,
    edit.edit,
    stages.audit,
    stages.release,
    stages.evaluate,
    checks.verify,
    checks.validate,
    checks.doctor,
    run.deploy,
):
    app.command()(_command)
app.add_typer(recipes.recipe, name="recipe")


def _show_version(wanted: bool) -> None:
    if wanted:
        from pipeline import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def phosphor(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and debug messages (they may hold patient data).")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Gated synthetic X-ray datasets from a real cohort.

    \b
    Example:
      phosphor run data_manifests/phantom.yaml --recipe smoke
      phosphor verify runs/phantom-smoke/release

    Exit codes: 0 done; 2 the command, recipe or manifest is wrong; 3 the input data cannot be used; 4 the
    privacy gate refused the release; 1 anything else.
    """
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


def main() -> None:
    """Run the command line (the `phosphor` console script)."""
    app()


if __name__ == "__main__":
    main()
