"""The `edit` command: changes scans or candidates to another class with a checkpoint."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import DryRun, Force, Out, Overrides, RecipeName, emit, read_recipe, reported

_DEFAULT_RECIPE = "cpu"


def edit(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint directory.", show_default=False)],
    *,
    source: Annotated[
        Path,
        typer.Option(
            "--from",
            help="Sources: a cohort directory, or candidates of this checkpoint.",
            show_default=False,
        ),
    ],
    out: Out,
    to_class: Annotated[
        str | None, typer.Option("--to", help="Target class of the edits.", show_default=False)
    ] = None,
    from_class: Annotated[
        str | None,
        typer.Option("--class", help="Class of the sources; by default every class except --to."),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Split of the cohort: train, val or test; never holdout.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Edits wanted, at most.")] = None,
    strength: Annotated[
        float | None,
        typer.Option("--strength", help="In (0, 1]; 1 generates anew. Default: 1 with a mask, else 0.4."),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask",
            metavar="X0,Y0,X1,Y1|FILE",
            help="Only this region: a box in fractions of the image, or a PNG or npy file of its size.",
        ),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="repaint (with a mask), dpmpp_2m, heun or ddim.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Sampler steps at strength 1.")] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", help="Classifier-free guidance scale; 1 is none.")
    ] = None,
    recipe: RecipeName = _DEFAULT_RECIPE,
    overrides: Overrides = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Edit scans or candidates into another class.

    With --mask, a region is generated anew and the rest is kept exactly; without it, the whole image is
    varied. OUT is a candidate set for `audit`, with the pairs in edits.parquet and pairs.png (private).

    Edits of real scans are for private analysis (does the prediction of a classifier change?). At any
    strength they contain real pixels or derive from one patient, so `release` refuses them under every
    policy. Edits of synthetic candidates are audited and released like candidates.

    \b
    Example:
      phosphor edit runs/demo/checkpoint --from runs/demo/cohort --to mass --mask .2,.3,.5,.8 --out runs/edits
    """
    with reported():
        options = {
            "edit.to_class": to_class,
            "edit.from_class": from_class,
            "edit.split": split,
            "edit.per_class": count,
            "edit.strength": strength,
            "edit.mask": _box_or_file(mask),
            "edit.sampler": sampler,
            "edit.num_steps": steps,
            "edit.guidance_scale": guidance,
        }
        settings = read_recipe(recipe, overrides, options)
        if dry_run:
            from flows.dry_run import plan_stage
            from pipeline.edit import plan_edit

            planned = partial(plan_edit, checkpoint, source, settings.edit, seed=settings.seed)
            emit(plan_stage("edit", planned, out, force=force))
            return
        from pipeline.edit import run_edit
        from pipeline.recipe import keep_recipe

        reference = run_edit(checkpoint, source, out, settings.edit, seed=settings.seed, force=force)
        keep_recipe(reference.path, settings)
        emit(reference)


def _box_or_file(text: str | None) -> list[float] | str | None:
    """Return the four numbers of a box, or any other value as a file name."""
    parts = text.split(",") if text else []
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        return text
    return numbers if len(numbers) == 4 else text
