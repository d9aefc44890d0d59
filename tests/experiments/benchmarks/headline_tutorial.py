"""The tutorial recipe at equal training time, measured as a release is, but for the arms with real scans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.checkpoint import load_into, read_tensors, write_tensors
from models.devices import default_device
from models.evaluation.augmentation import LIGHT
from pipeline.append_log import READS_NAME
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.evaluation_report import Estimate
from pipeline.artifacts.pixels import StoredPixels
from pipeline.artifacts.release import ReleasedImages
from pipeline.evaluate.arms import Arm, Pool, training_sets
from pipeline.evaluate.intervals import draw_resamples, measure
from pipeline.evaluate.logged_test import TestSplit
from pipeline.evaluate.metrics import auc
from pipeline.evaluate.trained import classifier_seeds
from pipeline.evaluate.training import BuiltIn, Job, run_jobs
from pipeline.evaluate.truth import Question, patient_numbers
from pipeline.recipe import Recipe
from pipeline.records import ReleaseRef
from pipeline.stage import load_reference
from pipeline.storage import make_private_directory, read_json, write_json, write_npy
from tests.experiments.benchmarks import peers
from tests.experiments.benchmarks.real_cohort import sample_peer

PIXELS, LABELS, WEIGHTS, DONE = "pixels.npy", "labels.npy", "model.safetensors", "tutorial.json"


@dataclass(frozen=True)
class SyntheticResult:
    """What classifiers trained on generated images alone reached.

    Attributes:
        images: the generated images in the shape of a release.
        by_seed: test AUC of each classifier seed; auc: their mean with its interval.
        seconds: training time of the generator.
    """

    images: ReleasedImages
    by_seed: tuple[float, ...]
    auc: Estimate
    seconds: float


def share_counts(released: ReleasedImages, num_classes: int, most: int) -> tuple[int, ...]:
    """Return images of each class: the release's class mix, `most` images at most."""
    counts = np.bincount(released.labels, minlength=num_classes)
    return tuple((counts * min(most, len(released)) // len(released)).tolist())


def own_result(
    run: Path, out: Path, recipe: Recipe, *, released: ReleasedImages, seconds: float, counts: tuple[int, ...]
) -> SyntheticResult:
    """Measure as many images of our own release as the tutorial recipe draws, in the same way.

    Args:
        run: a finished run of ours, which trained for `seconds`.
        out: where classifiers and the log of test reads are kept (private).
        recipe: the run's recipe with its seed.
        released: the images that the run released.
        seconds: training time of the run's generator.
        counts: images of each class; the first ones of the release are taken.
    """
    make_private_directory(out)
    rows = np.concatenate([released.rows(label)[:count] for label, count in enumerate(counts)])
    names = tuple(released.sample_ids[row] for row in rows)
    images = ReleasedImages(released.reference, names, released.labels[rows], released.pixels[rows])
    by_seed, estimate = _synthetic_only(Cohort(run / "cohort"), images, out, recipe, counts)
    return SyntheticResult(images, by_seed, estimate, seconds)


def tutorial_result(
    run: Path, out: Path, recipe: Recipe, *, seconds: float, counts: tuple[int, ...]
) -> SyntheticResult:
    """Train the tutorial recipe as long as the run's own training took, sample, and measure synthetic-only.

    What an earlier, killed call finished in `out` is used: images, classifiers, and the one read of test.

    Args:
        run: a finished run of ours: its cohort, and a checkpoint whose network sizes the tutorial trains.
        out: where images, classifiers and the log of test reads are kept (private).
        recipe: the run's recipe with its seed.
        seconds: training time of the tutorial recipe.
        counts: images of each class.
    """
    make_private_directory(out)
    cohort = Cohort(run / "cohort")
    labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    pixels, taken = _generated(cohort, run / "checkpoint", out, recipe, labels, seconds)
    # Only the images are the tutorial's: a set that no gate has passed has no reference of its own.
    reference = load_reference(ReleaseRef, run / "release")
    names = tuple(f"tutorial-{number:06d}" for number in range(len(labels)))
    images = ReleasedImages(reference, names, labels, pixels, np.empty((len(labels), 0)))
    by_seed, estimate = _synthetic_only(cohort, images, out, recipe, counts)
    return SyntheticResult(images, by_seed, estimate, taken)


def _synthetic_only(
    cohort: Cohort, images: ReleasedImages, out: Path, recipe: Recipe, counts: tuple[int, ...]
) -> tuple[tuple[float, ...], Estimate]:
    """Train the arm's classifiers and read test once; returns AUC by classifier seed and over all."""
    if (out / DONE).is_file():
        found = read_json(out / DONE, role="tutorial")
        return tuple(found["by_seed"]), Estimate(**found["auc"])
    arm = Arm("synthetic", None, (0,) * len(counts), counts, LIGHT)
    nothing = Pool(np.zeros(0, dtype=np.int64), cohort.take)
    made = Pool(images.labels, images.take)
    seeds = classifier_seeds(recipe.seed, recipe.evaluate.seeds)
    jobs = [Job(arm, seed, ("test",)) for seed in seeds]
    results = run_jobs(
        jobs,
        out / "classifiers",
        lambda arm, seed: training_sets(arm, nothing, made, seed, question=Question.of(cohort)),
        {"test": cohort.take(cohort.rows("test"))},
        fit_predict=BuiltIn.of(recipe.evaluate),
        num_classes=len(counts),
    )
    truth = Question.of(cohort).truth(cohort, "test", patient_numbers(cohort))
    split = TestSplit(
        truth,
        {arm: [results[job]["test"] for job in jobs]},
        out / READS_NAME,
        cohort=cohort.digest,
        evaluation="",
        resumed=False,
    )
    labelled, read = split.read([arm])
    rng = np.random.default_rng([recipe.seed, 1])
    draws = draw_resamples(labelled.patients, len(seeds), recipe.evaluate.num_resamples, rng)
    measured = measure(auc, [p.astype(np.float64) for p in read[arm]], labelled.labels, draws)
    body = {"by_seed": measured.by_seed.tolist(), "auc": measured.estimate.model_dump()}
    write_json(out / DONE, body, private=True)
    return tuple(body["by_seed"]), measured.estimate


def _generated(
    cohort: Cohort, checkpoint: Path, out: Path, recipe: Recipe, labels: np.ndarray, seconds: float
) -> tuple[StoredPixels, float]:
    """Return the tutorial's images (n, 1, H, W) and its training seconds; made once, then read again."""
    if (out / PIXELS).is_file():
        pixels: StoredPixels = np.load(out / PIXELS, allow_pickle=False)
        if len(pixels) == len(labels):
            return pixels, float(read_tensors(out / WEIGHTS).metadata["seconds"])
    torch.manual_seed(recipe.seed)
    device = default_device()
    peer = peers.TutorialLoop(peers.peer_spec(checkpoint), device)
    taken = _trained(peer, cohort, out, recipe, seconds)
    pixels = sample_peer(peer, cohort, labels, batch_size=128, seed=recipe.seed, kept=out)
    write_npy(out / LABELS, labels, private=True)
    write_npy(out / PIXELS, pixels, private=True)
    return pixels, taken


def kept_images(out: Path, wanted: np.ndarray) -> tuple[float, StoredPixels]:
    """Return the training seconds of what is kept in `out`, and images of the sorted classes `wanted` (n,).

    Raises:
        ValueError: it holds too few images of a class.
    """
    pixels, labels = (np.load(out / name, allow_pickle=False) for name in (PIXELS, LABELS))
    rows = []
    for label, count in enumerate(np.bincount(wanted)):
        found = np.flatnonzero(labels == label)[:count]
        if len(found) < count:
            raise ValueError(f"tutorial holds {len(found)} images of class {label}, {count} are wanted")
        rows.append(found)
    return float(read_tensors(out / WEIGHTS).metadata["seconds"]), pixels[np.concatenate(rows)]


def _trained(peer: peers.TutorialLoop, cohort: Cohort, out: Path, recipe: Recipe, seconds: float) -> float:
    """Train the peer, or load what an earlier call trained; returns the seconds that it took."""
    if (out / WEIGHTS).is_file():
        file = read_tensors(out / WEIGHTS, peer.network.state_dict())
        load_into(peer.network, file.tensors)
        return float(file.metadata["seconds"])
    done = peers.train_peer(
        peer, cohort, batch_size=recipe.train.batch_size, device=peer.device, seconds=seconds
    )
    figures = {"seconds": done.seconds, "steps": done.steps}
    write_tensors(out / WEIGHTS, peer.network.state_dict(), figures)
    return done.seconds
