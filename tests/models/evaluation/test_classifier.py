"""The small classifier learns, is the same from the same seed, and draws its batches as asked."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import roc_auc_score

from models.evaluation.augmentation import Augmentation
from models.evaluation.classifier import (
    SMALLEST_SIDES,
    Classifier,
    SmallCNN,
    build_classifier,
    predict_probabilities,
    stage_widths,
)
from models.evaluation.features import encoder_from_tensors, encoder_tensors, fit_encoder
from models.evaluation.training import (
    ClassifierTraining,
    TrainedClassifier,
    TrainingPart,
    _batches,
    train_classifier,
)


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


def fit(images: torch.Tensor, labels: torch.Tensor, seed: int, **changes: object) -> TrainedClassifier:
    training = replace(QUICK, **changes)
    return train_classifier([TrainingPart(images, labels)], num_classes=2, seed=seed, training=training)


def test_it_learns_what_can_be_learned():
    images, labels = bright_or_dark(64, seed=0)
    unseen, truth = bright_or_dark(100, seed=1)
    trained = fit(images, labels, 3)
    read = predict_probabilities(trained.network, unseen)
    assert (read.argmax(dim=1) == truth).float().mean() > 0.95
    assert trained.curve["step"][-1] == QUICK.num_steps
    assert trained.curve["loss"][-1] < 0.5 * trained.curve["loss"][0]


def test_equal_seeds_give_equal_weights_and_others_do_not():
    images, labels = bright_or_dark(32, seed=0)
    first, again, other = (
        train_classifier(
            [TrainingPart(images, labels)], num_classes=2, seed=seed, training=QUICK
        ).network.state_dict()
        for seed in (5, 5, 6)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_the_global_random_state_has_no_say():
    images, labels = bright_or_dark(32, seed=0)
    results = []
    for state in (1, 2):
        torch.manual_seed(state)
        results.append(fit(images, labels, 5).network)
    assert torch.equal(results[0].head.weight, results[1].head.weight)


def test_predictions_do_not_depend_on_the_company_in_a_batch():
    images, labels = bright_or_dark(300, seed=0)
    network = fit(images, labels, 0).network
    together = predict_probabilities(network, images)
    assert torch.allclose(together.sum(dim=1), torch.ones(300))
    assert torch.allclose(together[:5], predict_probabilities(network, images[:5]), atol=1e-6)
    assert predict_probabilities(network, images[:0]).shape == (0, 2)


def test_balanced_batches_hold_each_class_equally_often():
    labels = torch.tensor([0] * 90 + [1] * 9 + [2])
    generator = torch.Generator().manual_seed(0)
    part = TrainingPart(torch.zeros(100, 1, 16, 16), labels)
    batches = _batches(part, ClassifierTraining(batch_size=32), generator)
    drawn = torch.cat(list(itertools.islice(batches, 30)))
    counts = labels[drawn].bincount()
    assert counts.tolist() == [320, 320, 320]
    assert set(drawn.tolist()) == set(range(100))


def test_unbalanced_batches_go_through_all_images_before_one_repeats():
    labels = torch.tensor([0] * 30 + [1] * 2)
    training = ClassifierTraining(batch_size=16, balanced=False)
    part = TrainingPart(torch.zeros(32, 1, 16, 16), labels)
    batches = _batches(part, training, torch.Generator().manual_seed(0))
    assert sorted(torch.cat([next(batches), next(batches)]).tolist()) == list(range(32))


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
        train_classifier([TrainingPart(images[:, 0], labels)], num_classes=2, seed=0)
    with pytest.raises(ValueError, match="targets must be in"):
        train_classifier([TrainingPart(images, labels + 1)], num_classes=2, seed=0)
    with pytest.raises(ValueError, match="num_classes"):
        SmallCNN(0)


@pytest.mark.parametrize(("side", "num_features"), [(16, 32 + 64 + 128), (80, 16 + 32 + 64 + 128)])
def test_an_encoder_is_standardised_and_survives_storage_bit_for_bit(side: int, num_features: int) -> None:
    images, labels = bright_or_dark(64, seed=0)
    images = torch.nn.functional.interpolate(images, size=(side, side))
    network = fit(images, labels, 0).network
    encoder = fit_encoder(network, images)
    features = encoder(images)
    assert features.shape == (64, num_features)
    assert encoder.num_features == num_features
    assert features.mean(dim=0).abs().max() < 1e-3
    again = encoder_from_tensors(encoder_tensors(encoder))
    assert again.digest == encoder.digest
    assert torch.equal(again(images), features)
    for wrong in ({"mean": encoder.mean}, {**encoder_tensors(encoder), "scale": encoder.scale[1:]}):
        with pytest.raises(ValueError, match=r"tensors|scale"):
            encoder_from_tensors(wrong)


def test_large_images_are_halved_to_the_size_of_small_ones_first() -> None:
    sizes = {(28, 28): 0, (64, 40): 0, (65, 40): 1, (128, 128): 1, (100, 224): 2, (512, 512): 3}
    for size, early in sizes.items():
        assert stage_widths(size) == (16,) * early + (32, 64, 128)


def test_the_small_network_sees_more_than_texture_in_large_images() -> None:
    """Two discs, above each other or side by side: no window of 22 pixels holds both."""
    generator = torch.Generator().manual_seed(0)
    images, labels = 0.3 * torch.randn(64, 1, 160, 160, generator=generator), torch.arange(64) % 2
    starts, places = torch.randint(30, 80, (64, 2), generator=generator), torch.arange(160)
    for image, label, start in zip(images, labels, starts, strict=True):
        for down, across in ((0, 0), (50, 0) if label else (0, 50)):
            rows, columns = (places - start[0] - down).square(), (places - start[1] - across).square()
            image[0] += 2.0 * (rows[:, None] + columns[None, :] < 64)
    trained = fit(images, labels, 0, num_steps=60)
    assert roc_auc_score(labels, predict_probabilities(trained.network, images)[:, 1]) > 0.9


@pytest.mark.parametrize(("network", "size"), [("resnet18", 16), ("densenet121", 32)])
def test_the_networks_of_monai_learn_and_are_the_same_from_the_same_seed(network: str, size: int) -> None:
    images, labels = bright_or_dark(48, seed=0)
    images = torch.nn.functional.interpolate(images, size=(size, size))
    state = torch.random.get_rng_state()
    first, again = (fit(images, labels, 3, network=network, num_steps=24) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first.network.head.weight, again.network.head.weight)
    read = predict_probabilities(first.network, images)
    assert roc_auc_score(labels, read[:, 1]) > 0.9
    assert torch.allclose(read.sum(1), torch.ones(48), atol=1e-5)


def test_pre_training_ends_with_what_the_last_part_says() -> None:
    """The first part is labelled the wrong way round: fine-tuning on the second turns it."""
    images, labels = bright_or_dark(64, seed=0)
    parts = [TrainingPart(images, 1 - labels), TrainingPart(images, labels)]
    trained = train_classifier(parts, num_classes=2, seed=1, training=replace(QUICK, num_steps=60))
    read = predict_probabilities(trained.network, images)
    assert float((read.argmax(1) == labels).float().mean()) > 0.9
    assert trained.curve["step"][-1] == 60.0
    before = train_classifier(parts[:1], num_classes=2, seed=1, training=replace(QUICK, num_steps=60))
    assert float((predict_probabilities(before.network, images).argmax(1) == labels).float().mean()) < 0.1


def test_strong_augmentation_and_mixing_still_learn() -> None:
    images, labels = bright_or_dark(64, seed=0)
    trained = fit(images, labels, 2, augmentation=Augmentation("strong", 0.5), num_steps=80)
    unseen, truth = bright_or_dark(100, seed=1)
    read = predict_probabilities(trained.network, unseen)
    assert float((read.argmax(1) == truth).float().mean()) > 0.9


def test_several_findings_are_learned_at_once_and_unknown_ones_are_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    present = (torch.rand(96, 2, generator=generator) < 0.5).float()
    images = 0.2 * torch.randn(96, 1, 16, 16, generator=generator)
    images[:, 0, 2:6, 2:6] += 0.9 * present[:, 0, None, None]
    images[:, 0, 10:14, 10:14] += 0.9 * present[:, 1, None, None]
    targets = present.clone()
    targets[:24, 1] = float("nan")
    part = TrainingPart(images, targets, groups=(present @ torch.tensor([1.0, 2.0])).long())
    training = replace(QUICK, num_steps=80, multi_label=True)
    trained = train_classifier([part], num_classes=2, seed=0, training=training)
    read = predict_probabilities(trained.network, images, multi_label=True)
    assert float(((read > 0.5) == (present > 0.5)).float().mean()) > 0.9
    with pytest.raises(ValueError, match="one group an image"):
        train_classifier([TrainingPart(images, targets)], num_classes=2, seed=0, training=training)


@pytest.mark.parametrize(("network", "side"), SMALLEST_SIDES.items())
def test_smaller_images_than_a_network_can_read_are_named(network: str, side: int) -> None:
    def build(size: int) -> Classifier:
        generator = torch.Generator().manual_seed(0)
        return build_classifier(network, 2, (size, size + 4), dropout=0.0, generator=generator)

    assert build(side).eval()(torch.zeros(2, 1, side, side + 4)).shape == (2, 2)
    with pytest.raises(ValueError, match=f"{network} reads images of at least {side} pixels"):
        build(side - 1)
