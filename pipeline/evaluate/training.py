"""Trains the classifiers of all arms and seeds in parallel; each is saved as soon as it is finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from models.checkpoint import read_tensors, write_tensors
from models.devices import computing, default_device
from models.evaluation.classifier import predict_probabilities
from models.evaluation.training import ClassifierTraining, TrainingPart, train_classifier
from pipeline.artifacts.pixels import StoredPixels, to_model_range
from pipeline.cost.pacing import TIMED_CALLS, pace_of
from pipeline.distributed.cpu_threads import threads, usable_cores
from pipeline.errors import DataError, PhosphorError
from pipeline.evaluate.arm_names import WORDS
from pipeline.evaluate.arms import Arm
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.truth import Targets
from pipeline.progress import track
from pipeline.storage import make_private_directory, storage_errors

Images = npt.NDArray[np.float32]
"""(n, 1, H, W) in [-1, 1]."""
CLASSIFIER = "evaluate.classifier"
CORRECT_IT = "Correct it and run the same command again: classifiers that are trained are kept."
SUM_TOLERANCE, ROUNDING = 0.01, 1e-6
"""How far the sum of an image's probabilities may be from 1, and each of them outside [0, 1]."""


@dataclass(frozen=True)
class Fit:
    """Predictions of one trained classifier.

    Attributes:
        probabilities: (n, C or K) float32 in [0, 1] for each set of images to predict. Those of classes add
            up to 1, findings stand by themselves.
        curve: column -> values of the learning curve; may be empty.
    """

    probabilities: tuple[npt.NDArray[np.float32], ...]
    curve: dict[str, list[float]] = field(default_factory=dict)


class FitPredict(Protocol):
    """Interface of a classifier: trains on sets of images, then predicts each set in `asked`.

    It must use the same effort for all inputs (an equal number of optimiser steps), must draw its random
    choices from `seed`, and may be called from several threads at once.

    An attribute `arms`, if it has one, names the arms that it can train; otherwise these are `PLAIN_ARMS`.
    Attributes `field` and `remedy`, if it has them, are what an error names: the setting and what helps.
    A method `stop`, if it has one, is called from another thread if a run ends early; it ends running calls.
    """

    def __call__(
        self,
        arm: Arm,
        parts: Sequence[tuple[Images, Targets]],
        asked: Sequence[Images],
        *,
        num_classes: int,
        seed: int,
    ) -> Fit:
        """Train on the parts (images, targets) in this order, and predict.

        The targets are the classes (n,) of the images, or their findings (n, K): 1 present, 0 absent, NaN
        unknown. `num_classes` is the number C or K of probabilities that are asked for.
        """
        ...


class Classifier(Protocol):
    """`FitPredict` for pixels as they are stored, uint8 or uint16: a quarter of the memory of float32."""

    def __call__(
        self,
        arm: Arm,
        parts: Sequence[tuple[StoredPixels, Targets]],
        asked: Sequence[StoredPixels],
        *,
        num_classes: int,
        seed: int,
    ) -> Fit:
        """Train on the parts (pixels, targets) in this order, and predict."""
        ...


class OfImages:
    """A function or object with the `FitPredict` interface as a `Classifier`.

    Args:
        fit_predict: it, whose other attributes are those of this object.
    """

    def __init__(self, fit_predict: FitPredict) -> None:
        self._own = fit_predict

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def __call__(
        self,
        arm: Arm,
        parts: Sequence[tuple[StoredPixels, Targets]],
        asked: Sequence[StoredPixels],
        *,
        num_classes: int,
        seed: int,
    ) -> Fit:
        """Call it with images in model range."""
        train = [(to_model_range(pixels), targets) for pixels, targets in parts]
        wanted = [to_model_range(pixels) for pixels in asked]
        return self._own(arm, train, wanted, num_classes=num_classes, seed=seed)


@dataclass(frozen=True)
class BuiltIn:
    """A built-in classifier (`models.evaluation.classifier`)."""

    training: ClassifierTraining
    arms: frozenset[str] = frozenset(WORDS)

    @classmethod
    def of(cls, settings: EvaluateSettings) -> BuiltIn:
        """Return the classifier of the settings."""
        names = ("num_steps", "batch_size", "learning_rate", "weight_decay", "dropout")
        own = {name: getattr(settings, name) for name in names}
        network: Any = settings.classifier
        return cls(ClassifierTraining(network=network, **own))

    def __call__(
        self,
        arm: Arm,
        parts: Sequence[tuple[StoredPixels, Targets]],
        asked: Sequence[StoredPixels],
        *,
        num_classes: int,
        seed: int,
    ) -> Fit:
        """Train a network and predict; see `Classifier`."""
        findings = parts[0][1].ndim == 2
        trained = train_classifier(
            [_tensors(images, targets) for images, targets in parts],
            num_classes=num_classes,
            seed=seed,
            training=replace(
                self.training,
                num_steps=max(round(self.training.num_steps * arm.budget), 1),
                balanced=arm.balanced,
                augmentation=arm.augmentation,
                multi_label=findings,
            ),
            device=default_device(),
        )
        read = tuple(
            predict_probabilities(trained.network, torch.from_numpy(part), multi_label=findings).numpy()
            for part in asked
        )
        return Fit(read, trained.curve)


def _tensors(images: StoredPixels, targets: Targets) -> TrainingPart:
    """Return a set to train on. An image of several findings is drawn with those of its rarest one."""
    if targets.ndim == 1:
        return TrainingPart(torch.from_numpy(images), torch.from_numpy(targets))
    present = targets == 1
    rarest_first = np.argsort(present.sum(axis=0), kind="stable")
    groups = np.where(present.any(axis=1), present[:, rarest_first].argmax(axis=1), -1)
    known = torch.from_numpy(targets.astype(np.float32))
    return TrainingPart(torch.from_numpy(images), known, torch.from_numpy(groups))


def affordable_steps(
    training: ClassifierTraining, images: StoredPixels, num_jobs: float, seconds: float
) -> int:
    """Return how many steps each of `num_jobs` classifiers has time for, at most those of `training`.

    `num_workers` of them train in parallel.

    Args:
        training: training settings of the classifiers.
        images: pixels of some of their training images.
        num_jobs: number of classifiers to train, each weighted by its budget.
        seconds: time limit for all of them together.
    """
    each = step_seconds(training, torch.from_numpy(images[: training.batch_size]))
    fits = int(seconds * num_workers() / (num_jobs * each))
    return max(1, min(fits, training.num_steps))


def step_seconds(training: ClassifierTraining, images: torch.Tensor, num_classes: int = 2) -> float:
    """Return the seconds of one optimiser step of a classifier, on one thread.

    Args:
        training: training settings of the classifiers.
        images: (n, 1, H, W) images of their input size, float32 in [-1, 1] or pixels.
        num_classes: width of the output.
    """
    labels = torch.arange(len(images)) % num_classes

    def steps(count: int) -> None:
        # The norm layers need two images at a time.
        short = replace(training, num_steps=TIMED_CALLS, batch_size=max(2, count))
        part = TrainingPart(images, labels)
        train_classifier([part], num_classes=num_classes, seed=0, training=short, device=default_device())

    with threads(1):
        return pace_of(steps, training.batch_size).seconds / TIMED_CALLS


@dataclass(frozen=True)
class Job:
    """One classifier to train: an arm with one seed, and the names of the sets to predict."""

    arm: Arm
    seed: int
    asked: tuple[str, ...]

    @property
    def key(self) -> str:
        """File name stem of the job's result."""
        return f"{self.arm.key}-seed-{self.seed}"


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    training_sets: Callable[[Arm, int], list[tuple[StoredPixels, Targets]]],
    asked: Mapping[str, StoredPixels],
    *,
    fit_predict: Classifier,
    num_classes: int,
) -> dict[Job, dict[str, npt.NDArray[np.float32]]]:
    """Train the classifiers that are not trained yet and return each job's probabilities by set.

    Jobs are independent and each uses one thread, so results do not depend on their order, the number of
    cores or interruptions.

    Args:
        jobs: classifiers to train.
        folder: folder of the results, created if necessary; existing results are reused.
        training_sets: returns an arm's pixels and labels for a seed.
        asked: pixels of the images to predict, by name.
        fit_predict: the classifier.
        num_classes: number of columns of the probabilities.

    Raises:
        DataError: a classifier of the user's own failed, or gave scores that cannot be used.
        StorageError: a result cannot be written.
    """
    make_private_directory(folder)
    results = {job: read for job in jobs if (read := _read(folder, job, num_classes, asked)) is not None}
    waiting = [job for job in jobs if job not in results]

    def refused(job: Job, problem: str) -> DataError:
        remedy = getattr(fit_predict, "remedy", CORRECT_IT)
        return unusable(
            job.arm, job.seed, problem, field=getattr(fit_predict, "field", CLASSIFIER), remedy=remedy
        )

    def work(job: Job) -> tuple[Job, dict[str, npt.NDArray[np.float32]]]:
        parts = training_sets(job.arm, job.seed)
        wanted = [asked[name] for name in job.asked]
        try:
            fit = fit_predict(job.arm, parts, wanted, num_classes=num_classes, seed=job.seed)
        except PhosphorError:
            raise
        except Exception as error:
            if isinstance(fit_predict, BuiltIn):
                raise
            raise refused(job, f"failed ({type(error).__name__})") from error
        shapes = [(len(part), num_classes) for part in wanted]
        if problem := _problem(fit, shapes, exclusive=parts[0][1].ndim == 1):
            raise refused(job, problem)
        scores = [np.ascontiguousarray(found, dtype=np.float32) for found in fit.probabilities]
        read = dict(zip(job.asked, scores, strict=True))
        with storage_errors(folder):
            tensors = {name: torch.from_numpy(p) for name, p in read.items()}
            curve = {str(name): [float(value) for value in values] for name, values in fit.curve.items()}
            write_tensors(_path(folder, job), tensors, {"curve": curve})
        return job, read

    with (
        track("classifiers", len(jobs), done=len(results), unit="trained") as progress,
        threads(1),
        computing(default_device()),
        ThreadPoolExecutor(num_workers(), initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        try:
            for future in as_completed([pool.submit(work, job) for job in waiting]):
                job, read = future.result()
                results[job] = read
                progress.update(1, arm=job.arm.key)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            # Leaving the block waits for the calls that are running.
            getattr(fit_predict, "stop", lambda: None)()
            raise
    return results


def _problem(fit: Fit, shapes: list[tuple[int, int]], *, exclusive: bool) -> str:
    """Return why the results of a classifier cannot be used; empty if they can.

    Args:
        fit: what it gave.
        shapes: shape of each array of probabilities.
        exclusive: whether they are those of classes, whose rows sum to 1.
    """
    try:
        scores = [np.asarray(found, dtype=np.float32) for found in fit.probabilities]
        points = [float(value) for values in fit.curve.values() for value in values]
    except (AttributeError, TypeError, ValueError):
        return "gave no Fit with an array of scores for each set and a curve of numbers"
    if [found.shape for found in scores] != shapes:
        return f"gave scores of shape {[found.shape for found in scores]}, not {shapes}"
    if not all(np.isfinite(found).all() for found in (*scores, np.array(points))):
        return "gave scores or a curve that are not finite"
    if any(((found < -ROUNDING) | (found > 1 + ROUNDING)).any() for found in scores):
        return "gave scores below 0 or above 1"
    if exclusive and any((np.abs(found.sum(axis=1) - 1) > SUM_TOLERANCE).any() for found in scores):
        return "gave scores of an image that do not add up to 1"
    return ""


def unusable(
    arm: Arm,
    seed: int,
    problem: str,
    *,
    field: str = CLASSIFIER,
    remedy: str = CORRECT_IT,
) -> DataError:
    """Return the error of a classifier of the user's own, with its arm and seed.

    Args:
        arm: the arm that it was trained in.
        seed: its seed.
        problem: what it did, as in "the classifier ...".
        field: setting to look at.
        remedy: what the user can do.
    """
    return DataError(
        f"the classifier {problem} in arm {arm.key} with seed {seed}", field=field, remedy=remedy
    )


def mean_curve(jobs: Sequence[Job], folder: Path) -> dict[str, list[float]]:
    """Return the learning curve of finished jobs, averaged by column; empty if they have none in common."""
    curves = [read_tensors(_path(folder, job)).metadata.get("curve", {}) for job in jobs]
    # A user's classifier may stop at another step with another seed: such curves have no mean.
    if len({tuple((name, len(values)) for name, values in curve.items()) for curve in curves}) != 1:
        return {}
    return {name: np.mean([curve[name] for curve in curves], axis=0).tolist() for name in curves[0]}


def num_workers() -> int:
    """Return how many classifiers train in parallel: one per core, or one on an accelerator."""
    if default_device().type != "cpu":
        return 1
    return usable_cores()


def _path(folder: Path, job: Job) -> Path:
    return folder / f"{job.key}.safetensors"


def _read(
    folder: Path, job: Job, num_classes: int, asked: Mapping[str, StoredPixels]
) -> dict[str, npt.NDArray[np.float32]] | None:
    """Return a job's earlier result, or None if there is no usable one."""
    expected = {name: torch.empty(len(asked[name]), num_classes) for name in job.asked}
    try:
        tensors = read_tensors(_path(folder, job), expected).tensors
    except (OSError, ValueError):
        return None
    return {name: tensor.numpy() for name, tensor in tensors.items()}
