"""Classifiers read pixels as they are stored, to the same results as images in model range."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.evaluation.classifier import predict_probabilities
from models.evaluation.features import fit_encoder
from models.evaluation.pixels import in_model_range
from models.evaluation.training import ClassifierTraining, TrainingPart, train_classifier
from pipeline.artifacts.pixels import to_model_range

DTYPES = (np.uint8, np.uint16)


def pixels(dtype: type[np.unsignedinteger], count: int = 24) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, np.iinfo(dtype).max, (count, 1, 16, 16), dtype=dtype, endpoint=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_model_range_is_the_pipelines_to_the_last_bit(dtype: type[np.unsignedinteger]) -> None:
    every = np.arange(np.iinfo(dtype).max + 1, dtype=np.int64).astype(dtype)
    mapped = in_model_range(torch.from_numpy(every))
    assert np.array_equal(mapped.numpy(), to_model_range(every))
    assert (mapped[0], mapped[-1]) == (-1.0, 1.0)
    assert in_model_range(mapped) is mapped


@pytest.mark.parametrize("dtype", DTYPES)
def test_training_predictions_and_features_are_those_of_images(dtype: type[np.unsignedinteger]) -> None:
    stored = torch.from_numpy(pixels(dtype))
    labels = torch.arange(24) % 2
    training = ClassifierTraining(num_steps=6, batch_size=8)
    found = []
    for images in (stored, in_model_range(stored)):
        trained = train_classifier([TrainingPart(images, labels)], num_classes=2, seed=3, training=training)
        encoder = fit_encoder(trained.network, images)  # type: ignore[arg-type]
        found.append((predict_probabilities(trained.network, images), encoder(images)))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
