"""The `recipe` commands: `recipe show` prints every setting of a recipe and where it comes from."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from flows.cli.options import RECIPE_HELP, Overrides, emit, reported

recipe = typer.Typer(no_args_is_help=True, help="Show recipes: the settings of a run.")


@recipe.command()
def show(
    name: Annotated[
        str,
        typer.Argument(help=RECIPE_HELP, show_default=False),
    ],
    *,
    overrides: Overrides = None,
) -> None:
    """Print every setting of a recipe.

    One line per setting: its key, its value as `--set` reads it, and where the value comes from: `default`,
    the recipe's file, or `--set`. docs/settings.md describes each setting.

    \b
    Example:
      phosphor recipe show cpu
      phosphor recipe show gpu --set train.num_steps=20000 | grep -v " default$"
    """
    with reported():
        from pipeline.recipe import load_recipe, recipe_origins
        from pipeline.settings_page import leaf_values

        chosen = list(overrides or [])
        settings = load_recipe(name, chosen)
        values, origins = leaf_values(settings), recipe_origins(name, chosen)
    key_width = max(len(key) for key in values)
    value_width = max(len(value) for value in values.values())
    # Outside `reported`: a reader that closes the pipe early, such as `head`, is not an error.
    for key, value in values.items():
        sys.stdout.write(f"{key:<{key_width}}  {value:<{value_width}}  {origins[key]}\n")
    emit(
        {
            "stage": "recipe",
            "name": name,
            "digest": settings.digest(),
            "settings": settings.model_dump(mode="json"),
            "changed": {key: origin for key, origin in origins.items() if origin != "default"},
        }
    )
