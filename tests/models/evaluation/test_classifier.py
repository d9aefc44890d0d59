"""The small classifier learns, is the same from the same seed, and draws its batches as asked."""

from __future__ import annotations

import itertools

import pytest
import torch

from models.evaluation.classifier import (
    ClassifierTraining,
    SmallCNN,
    _batches,
    augment,
    predict_probabilities,
    train_classifier,
)
from models.evaluation.features import FEATURE_DIM, encoder_from_tensors, encoder_tensors, fit_encoder


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def bright_or_dark(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright blob on the left (class 0) or on the right (class 1), in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    images = 0.3 * torch.randn(n, 1, 16, 16, generator=generator)
    for i, label in enumerate(labels.tolist()):
        rows, at = slice(4, 12), 2 if label == 0 else 10
        images[i, 0, rows, at : at + 4] += 0.8 if label == 0 else -0.8
    return images.clamp(-1, 1), labels


QUICK = ClassifierTraining(num_steps=30, batch_size=16)


def test_it_learns_what_can_be_learned():
    images, labels = bright_or_dark(64, seed=0)
    unseen, truth = bright_or_dark(100, seed=1)
    trained = train_classifier(images, labels, num_classes=2, seed=3, training=QUICK)
    read = predict_probabilities(trained.network, unseen)
    assert (read.argmax(dim=1) == truth).float().mean() > 0.95
    assert trained.curve["step"][-1] == QUICK.num_steps
    assert trained.curve["loss"][-1] < 0.5 * trained.curve["loss"][0]


def test_equal_seeds_give_equal_weights_and_others_do_not():
    images, labels = bright_or_dark(32, seed=0)
    first, again, other = (
        train_classifier(images, labels, num_classes=2, seed=seed, training=QUICK).network.state_dict()
        for seed in (5, 5, 6)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_the_global_random_state_has_no_say():
    images, labels = bright_or_dark(32, seed=0)
    results = []
    for state in (1, 2):
        torch.manual_seed(state)
        results.append(train_classifier(images, labels, num_classes=2, seed=5, training=QUICK).network)
    assert torch.equal(results[0].head.weight, results[1].head.weight)


def test_predictions_do_not_depend_on_the_company_in_a_batch():
    images, labels = bright_or_dark(300, seed=0)
    network = train_classifier(images, labels, num_classes=2, seed=0, training=QUICK).network
    together = predict_probabilities(network, images)
    assert torch.allclose(together.sum(dim=1), torch.ones(300))
    assert torch.allclose(together[:5], predict_probabilities(network, images[:5]), atol=1e-6)
    assert predict_probabilities(network, images[:0]).shape == (0, 2)


def test_balanced_batches_hold_each_class_equally_often():
    labels = torch.tensor([0] * 90 + [1] * 9 + [2])
    generator = torch.Generator().manual_seed(0)
    batches = _batches(labels, ClassifierTraining(batch_size=32), generator)
    drawn = torch.cat(list(itertools.islice(batches, 30)))
    counts = labels[drawn].bincount()
    assert counts.tolist() == [320, 320, 320]
    assert set(drawn.tolist()) == set(range(100))


def test_unbalanced_batches_go_through_all_images_before_one_repeats():
    labels = torch.tensor([0] * 30 + [1] * 2)
    training = ClassifierTraining(batch_size=16, balanced=False)
    batches = _batches(labels, training, torch.Generator().manual_seed(0))
    assert sorted(torch.cat([next(batches), next(batches)]).tolist()) == list(range(32))


def test_augmentation_shifts_by_whole_pixels_within_its_limit():
    image = torch.full((1, 1, 20, 20), -1.0)
    image[0, 0, 10, 10] = 1.0
    training = ClassifierTraining(max_shift=0.1, brightness=0.0, contrast=0.0)
    moved = augment(image.repeat(200, 1, 1, 1), training, torch.Generator().manual_seed(0))
    rows, columns = moved[:, 0].flatten(1).argmax(dim=1) // 20, moved[:, 0].flatten(1).argmax(dim=1) % 20
    assert set(rows.tolist()) == set(columns.tolist()) == {8, 9, 10, 11, 12}
    assert torch.equal(moved.amax(dim=(1, 2, 3)), torch.ones(200))


def test_no_augmentation_changes_nothing():
    images, _ = bright_or_dark(4, seed=0)
    plain = ClassifierTraining(max_shift=0.0, brightness=0.0, contrast=0.0)
    assert torch.equal(augment(images, plain, torch.Generator().manual_seed(0)), images)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"dropout": 1.0}, "dropout"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        ClassifierTraining(**wrong)


def test_wrong_shapes_and_labels_are_named():
    images, labels = bright_or_dark(8, seed=0)
    with pytest.raises(ValueError, match="images"):
        train_classifier(images[:, 0], labels, num_classes=2, seed=0)
    with pytest.raises(ValueError, match="labels must be in"):
        train_classifier(images, labels + 1, num_classes=2, seed=0)
    with pytest.raises(ValueError, match="num_classes"):
        SmallCNN(1)


def test_an_encoder_is_standardised_and_survives_storage_bit_for_bit():
    images, labels = bright_or_dark(64, seed=0)
    network = train_classifier(images, labels, num_classes=2, seed=0, training=QUICK).network
    encoder = fit_encoder(network, images)
    features = encoder(images)
    assert features.shape == (64, FEATURE_DIM)
    assert features.mean(dim=0).abs().max() < 1e-3
    again = encoder_from_tensors(encoder_tensors(encoder))
    assert again.digest == encoder.digest
    assert torch.equal(again(images), features)
    with pytest.raises(ValueError, match="tensors"):
        encoder_from_tensors({"mean": encoder.mean})
