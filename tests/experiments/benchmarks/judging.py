"""What generated images are worth, judged on a cohort's validation split alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from models.evaluation.classifier import Classifier, predict_probabilities
from models.evaluation.pixels import in_model_range
from models.evaluation.spectrum import octave_power
from models.evaluation.training import ClassifierTraining, TrainingPart, train_classifier
from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.pixels import StoredPixels
from pipeline.evaluate.fidelity.distances import fid, kid
from pipeline.evaluate.fidelity.encoder import cohort_encoder
from pipeline.evaluate.settings import EvaluateSettings

CLASSIFIER_SEEDS = 2
_BLOCK = 256


@dataclass(frozen=True)
class Judged:
    """Images against the val split.

    Attributes:
        kid: KID, mean over classes.
        fid: FID, mean over classes.
        auc: val AUC of a classifier trained on the images alone, mean over `CLASSIFIER_SEEDS`.
        agreement: share that a classifier of the real train scans reads as the class they were made as.
        agreement_by_class: the same by class.
        power: power in each octave of spatial frequency over that of val, the finest first.
    """

    kid: float
    fid: float
    auc: float
    agreement: float
    agreement_by_class: tuple[float, ...]
    power: tuple[float, ...]


class Judge:
    """Holds images against the val split of a cohort.

    Args:
        cohort: the cohort; a classifier is trained on its train split.
        training: training of all classifiers.
    """

    def __init__(self, cohort: Cohort, training: ClassifierTraining | None = None) -> None:
        self.training = training or ClassifierTraining()
        rows, train = cohort.rows("val"), cohort.rows("train")
        self.classes = range(len(cohort.info.classes))
        self.encoder = cohort_encoder(cohort, EvaluateSettings())
        self.pixels, self.labels = torch.from_numpy(cohort.take(rows)), np.asarray(cohort.labels)[rows]
        self.features = self.encoder(self.pixels).numpy()
        self.power = _mean_power(self.pixels)
        labels = np.asarray(cohort.labels)[train].astype(np.int64)
        self.reader = self._classifier(torch.from_numpy(cohort.take(train)), labels, 0)

    def __call__(self, pixels: StoredPixels, labels: Ints) -> Judged:
        """Judge images (n, 1, H, W) that were made as the classes `labels`."""
        images = torch.from_numpy(pixels)
        features = self.encoder(images).numpy()
        pairs = [(features[labels == k], self.features[self.labels == k]) for k in self.classes]
        agrees = self._read(self.reader, images).argmax(axis=1) == labels
        return Judged(
            kid=statistics.mean(kid(made, real).value for made, real in pairs),
            fid=statistics.mean(fid(made, real) for made, real in pairs),
            auc=statistics.mean(
                self._auc(self._classifier(images, labels, seed)) for seed in range(CLASSIFIER_SEEDS)
            ),
            agreement=float(agrees.mean()),
            agreement_by_class=tuple(float(agrees[labels == k].mean()) for k in self.classes),
            power=tuple((_mean_power(images) / self.power).tolist()),
        )

    def of_real_scans(self) -> tuple[float, float]:
        """Return val AUC of the classifier of real train scans, and the share of val that it reads right."""
        right = self._read(self.reader, self.pixels).argmax(axis=1) == self.labels
        return self._auc(self.reader), float(right.mean())

    def _auc(self, network: Classifier) -> float:
        probabilities = self._read(network, self.pixels)
        if len(self.classes) == 2:
            return float(roc_auc_score(self.labels, probabilities[:, 1]))
        return float(roc_auc_score(self.labels, probabilities, multi_class="ovr"))

    def _read(self, network: Classifier, images: torch.Tensor) -> np.ndarray:
        return predict_probabilities(network, images).numpy()

    def _classifier(self, images: torch.Tensor, labels: Ints, seed: int) -> Classifier:
        part = TrainingPart(images, torch.from_numpy(labels))
        return train_classifier(
            [part], num_classes=len(self.classes), seed=seed, training=self.training
        ).network


def spread(values: Sequence[float], digits: int, sign: str = "") -> str:
    """Return mean and, of several values, standard deviation, as in `0.957 (0.004)`."""
    sd = f" ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.{digits}f}{sd}"


def _mean_power(pixels: torch.Tensor) -> torch.Tensor:
    blocks = [octave_power(in_model_range(block)) for block in pixels.split(_BLOCK)]
    return torch.cat(blocks).mean(dim=0)
