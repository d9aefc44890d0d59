"""What every part of the proof is called with: `[MANIFEST] [OUT] [name=value ...]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.ingest import run_ingest
from pipeline.manifest import load_manifest
from pipeline.recipe import Recipe, load_recipe
from pipeline.records import CohortRef
from tests.experiments.benchmarks.machine import describe

MANIFEST, OUT, SIZE, MINUTES = "data_manifests/pneumoniamnist.yaml", "runs/privacy-proof", 28, 10.0


@dataclass(frozen=True)
class Call:
    """One call of a part.

    Attributes:
        manifest: of the cohort; out: where cohorts and models are kept.
        options: the others, by name.
    """

    manifest: Path
    out: Path
    options: dict[str, str]

    def text(self, name: str, default: str = "") -> str:
        """Return an option as it was given."""
        return self.options.get(name, default)

    def number(self, name: str, default: int) -> int:
        """Return an option that is a whole number.

        Raises:
            ValueError: it is none.
        """
        return int(self.options.get(name, default))

    @property
    def size(self) -> int:
        """Height and width in pixels at which the cohort is read."""
        return self.number("size", SIZE)

    @property
    def minutes(self) -> float:
        """How long each generator is trained."""
        return float(self.options.get("minutes", MINUTES))

    def recipe(self, per_class: int = 640, *more: str) -> Recipe:
        """Return the `cpu` recipe at this size, trained and drawn from so much, with more settings."""
        budget = [f"train.max_minutes={self.minutes:g}", "train.num_steps=1000000"]
        return load_recipe(
            "cpu", [f"ingest.image_size={self.size}", f"sample.per_class={per_class}", *budget, *more]
        )

    def cohort(self, recipe: Recipe) -> CohortRef:
        """Return the cohort, ingested on the first call."""
        described = load_manifest(self.manifest)
        return run_ingest(described, self.out / f"cohort-{self.size}", recipe.ingest)

    @property
    def words(self) -> str:
        """Machine, cohort and size, for the head of what is printed."""
        return f"machine: {describe()}; {self.manifest.stem} at {self.size}x{self.size}"


def called(known: Sequence[str], arguments: Sequence[str] | None = None) -> Call:
    """Read the command line.

    Args:
        known: names of the options beside `size` and `minutes`.
        arguments: the words; None takes those of the process.

    Raises:
        SystemExit: an option is unknown, or there are too many words.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    places = [word for word in given if "=" not in word]
    options = dict(word.split("=", 1) for word in given if "=" in word)
    unknown = sorted(set(options) - {"size", "minutes", *known})
    if unknown or len(places) > 2:
        raise SystemExit(f"unknown: {', '.join(unknown) or places[2:]}; options are size, minutes, {known}")
    manifest, out = [*places, *(MANIFEST, OUT)[len(places) :]]
    return Call(Path(manifest), Path(out), options)
