"""Whether images show the class they were drawn for, read by classifiers that saw real train scans alone.

`python -m tests.experiments.benchmarks.agreement RUN [--seeds 0 1 2] [--steps 500]` reads all candidates of a
finished run, accepted or not, and the val scans beside them: a classifier that misreads real scans says
little about drawn ones.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from models.evaluation.classifier import predict_probabilities
from models.evaluation.training import ClassifierTraining, TrainingPart, train_classifier
from pipeline.artifacts.candidates import Candidates
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.evaluation_report import Estimate
from pipeline.evaluate.agreement import label_agreement
from tests.experiments.benchmarks.machine import describe


def main(arguments: list[str] | None = None) -> int:
    """Train the classifiers and print what each reads."""
    parser = argparse.ArgumentParser(prog="python -m tests.experiments.benchmarks.agreement")
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=ClassifierTraining().num_steps)
    chosen = parser.parse_args(arguments)
    print(f"machine: {describe()}", flush=True)
    cohort, candidates = Cohort(chosen.run / "cohort"), Candidates(chosen.run / "candidates")
    intended = candidates.table["label"].to_numpy().astype(np.int64)
    drawn, val = candidates.images(np.arange(len(candidates))), cohort.rows("val")
    train = cohort.rows("train")
    for seed in chosen.seeds:
        part = TrainingPart(
            torch.from_numpy(cohort.images(train)),
            torch.from_numpy(np.asarray(cohort.labels)[train].astype(np.int64)),
        )
        trained = train_classifier(
            [part],
            num_classes=len(cohort.info.classes),
            seed=seed,
            training=ClassifierTraining(num_steps=chosen.steps),
        )
        sets = {"val scans": (cohort.images(val), np.asarray(cohort.labels)[val]), "drawn": (drawn, intended)}
        for name, (images, labels) in sets.items():
            read = predict_probabilities(trained.network, torch.from_numpy(images)).numpy().argmax(axis=1)
            print(f"classifier seed {seed}: {name}: {_words(read, labels, cohort.info.classes)}", flush=True)
    return 0


def _words(read: npt.NDArray[np.integer], labels: npt.NDArray[np.integer], classes: tuple[str, ...]) -> str:
    shares = label_agreement(read, labels, classes)
    each = ", ".join(f"{name} {_share(found)}" for name, found in shares.items())
    return f"{(read == labels).mean():.4f} of {len(labels)} as intended ({each})"


def _share(found: Estimate) -> str:
    return f"{found.value:.4f} ({found.low:.4f}-{found.high:.4f})"


if __name__ == "__main__":
    sys.exit(main())
