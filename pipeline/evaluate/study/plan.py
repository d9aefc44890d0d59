"""Which experiments a study makes, and which scans each of them sees."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from pipeline.artifacts.cohort import Cohort
from pipeline.errors import DataError
from pipeline.evaluate.study.settings import Regime, StudySettings
from pipeline.evaluate.study.sites import Site, draw_site, elsewhere_and_here
from pipeline.evaluate.truth import MIN_PATIENTS, Question, patient_numbers


class Experiment(BaseModel):
    """One site of a study.

    Attributes:
        regime: `shared`, `self` or `imbalanced`.
        size: train scans per class, or `all`.
        draw: number of the site, from 0.
        seed: seed of the study, which draws the patients.
        elsewhere: share of the train patients of the shared generator; None if it was given as a release.
        rare: rare class of the imbalanced regime; empty in the others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    regime: Regime
    size: int | Literal["all"]
    draw: int
    seed: int
    elsewhere: float | None = None
    rare: str = ""

    @property
    def name(self) -> str:
        """Name of its directory."""
        return f"{self.regime}-{self.size}-{self.draw}"

    def cell_in(self, study: Path) -> Path:
        """Return the directory of its classifiers' scores; what its generator needs lies beside it."""
        return study / "cells" / self.name / "cell"

    @property
    def own_seed(self) -> int:
        """Seed of its generator and classifiers."""
        return int(np.random.SeedSequence([self.seed, 7, self.draw]).generate_state(1)[0])


def experiments(cohort: Cohort, settings: StudySettings, *, seed: int, foreign: bool) -> list[Experiment]:
    """Return the experiments of a study, draw by draw, so that an early end leaves every size with some.

    Args:
        cohort: the whole cohort.
        settings: settings of the study.
        seed: seed of the study.
        foreign: whether the shared regime uses a given release.

    Raises:
        DataError: a class has too few train, val or test patients, or the rare class is unknown.
    """
    classes, question, patients = cohort.info.classes, Question.of(cohort), patient_numbers(cohort)
    if len(classes) < 2:
        raise DataError(
            "a study compares classes; there is one only", field="cohort", remedy="Ingest others too."
        )
    for split in ("train", "val", "test"):
        lacking = question.truth(cohort, split, patients).lacking(question.names)
        if lacking:
            raise DataError(
                f"{split} has fewer than {MIN_PATIENTS} patients of {', '.join(lacking)}",
                field="cohort",
                remedy="Ingest more scans, or another split.",
            )
    counts = [len(cohort.rows("train", label)) for label in range(len(classes))]
    rare = settings.rare or classes[int(np.argmin(counts))]
    if rare not in classes:
        raise DataError(
            "not a class of the cohort",
            field="study.rare",
            value=rare,
            remedy=f"Name one of {', '.join(classes)}.",
        )
    return [
        Experiment(
            regime=regime,
            size=size,
            draw=draw,
            seed=seed,
            elsewhere=None if foreign or regime != "shared" else settings.elsewhere,
            rare=rare if regime == "imbalanced" else "",
        )
        for draw in range(settings.draws)
        for regime in settings.regimes
        for size in settings.sizes
        if draw == 0 or size != "all" or regime == "shared"
    ]


def site_of(cohort: Cohort, experiment: Experiment, *, generator: bool = False) -> Site:
    """Return the scans that an experiment's classifiers see, or those that its generator sees.

    Args:
        cohort: the whole cohort.
        experiment: the experiment.
        generator: return the scans of the generator and of its privacy gate.
    """
    if experiment.regime == "shared":
        there, here = cohort.rows("train")[:0], cohort.rows("train")
        if experiment.elsewhere is not None:
            there, here = elsewhere_and_here(cohort, experiment.elsewhere, experiment.seed)
        if generator:
            return Site({"train": there, "val": cohort.rows("val"), "holdout": cohort.rows("holdout")})
    else:
        here = cohort.rows("train")
    counts = dict(enumerate(_asked(cohort, experiment).values()))
    return draw_site(cohort, here, counts, seed=experiment.seed, draw=experiment.draw, holdout=generator)


def shortfall(cohort: Cohort, experiment: Experiment, site: Site) -> list[str]:
    """Return notes on the classes of which a site has fewer scans than the study asks for."""
    notes = []
    for label, (name, asked) in enumerate(_asked(cohort, experiment).items()):
        for split in ("train", "val"):
            there = int((np.asarray(cohort.labels)[site.rows[split]] == label).sum())
            if asked is not None and there < asked:
                notes.append(f"a site has {there} {split} scans of {name} instead of {asked}")
    question = Question.of(cohort)
    if question.columns:
        findings = question.of_scans(cohort, site.rows["train"])
        shown = (findings == 1).any(axis=0)
        lacking = (name for name, there in zip(question.names, shown, strict=True) if not there)
        notes += [f"a site has no train scan with {name}" for name in lacking]
    return notes


def _asked(cohort: Cohort, experiment: Experiment) -> dict[str, int | None]:
    """Return class -> number of scans that a site is asked to have; None for all."""
    size = None if experiment.size == "all" else experiment.size
    rare = experiment.rare
    return {name: size if not rare or name == rare else None for name in cohort.info.classes}
