"""Utility arms: which real and synthetic images each classifier is trained on, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.evaluation.augmentation import Augmentation
from pipeline.arrays import Floats, Ints
from pipeline.artifacts.pixels import StoredPixels, joined_pixels
from pipeline.evaluate.arm_names import CHOOSING_ARMS, FILLING_ARMS, WORDS
from pipeline.evaluate.subgroups import UNKNOWN_GROUP
from pipeline.evaluate.truth import Question, Targets

SOME = 0.05
"""Synthetic images per real image that an arm must have, if it takes fewer than the ratio asks for."""
_NONE: Ints = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Pool:
    """Images to train on.

    Attributes:
        labels: (n,) class of each image.
        load: returns the pixels (k, 1, H, W) at positions (k,).
        findings: (n, K) findings of each image, if they are known: 1 present, 0 absent, NaN unknown.
        groups: (n,) subgroup of each image (`pipeline.evaluate.subgroups`), if it is known.
    """

    labels: Ints
    load: Callable[[Ints], StoredPixels]
    findings: Floats | None = None
    groups: Ints | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def targets(self, question: Question, rows: Ints) -> Targets:
        """Return the answers to a question for the images at positions (k,)."""
        found = None if self.findings is None else self.findings[rows]
        return question.of_images(self.labels[rows], found)

    def rows(self, label: int) -> Ints:
        """Return the positions of one class, ascending."""
        return np.flatnonzero(self.labels == label)

    def counts(self, num_classes: int) -> tuple[int, ...]:
        """Return the number of images by class."""
        return tuple(np.bincount(self.labels, minlength=num_classes).tolist())


@dataclass(frozen=True)
class Arm:
    """A recipe for a training set and its training.

    Attributes:
        name: one of `REAL_ARMS` or `SYNTHETIC_ARMS`.
        ratio: requested synthetic (or duplicated) images per real image; None if not applicable.
        num_real: real images by class, duplicates included.
        num_synthetic: synthetic images by class.
        augmentation: what is done to each training batch.
        balanced: whether all classes are drawn equally often. All arms except `real` are, so that a synthetic
            arm never wins by this alone.
        budget: optimiser steps, as a multiple of `evaluate.num_steps`.
    """

    name: str
    ratio: float | None
    num_real: tuple[int, ...]
    num_synthetic: tuple[int, ...]
    augmentation: Augmentation
    balanced: bool = True
    budget: float = 1.0

    @property
    def key(self) -> str:
        """A short name that is unique within a plan, as in `real_synthetic-0.5` or `real-x2`."""
        parts = [self.name, *(f"{value:g}" for _, value in self._amounts())]
        return "-".join(parts if self.budget == 1 else [*parts, f"x{self.budget:g}"])

    @property
    def words(self) -> str:
        """The arm in words."""
        said = [f"{name} {value:g}" for name, value in self._amounts()]
        if self.budget != 1:
            said.append(f"{self.budget:g} times the steps")
        return f"{WORDS[self.name]} ({', '.join(said)})" if said else WORDS[self.name]

    def _amounts(self) -> list[tuple[str, float]]:
        """Return what distinguishes arms of one name, besides the budget."""
        if self.name == "real_strong":
            return [("strength", self.augmentation.strength)]
        return [] if self.ratio is None else [("ratio", self.ratio)]


def at_budgets(arms: Sequence[Arm], budgets: Sequence[float]) -> list[Arm]:
    """Return the arms at every budget of optimiser steps, so that no arm wins by being stopped early."""
    return [replace(arm, budget=budget) for budget in sorted(set(budgets)) for arm in arms]


def first_arms(real: Sequence[int], names: Sequence[str], strengths: Sequence[float]) -> list[Arm]:
    """Return the arms that decide on the augmentation: real images, augmented in different ways.

    Args:
        real: real training images by class.
        names: arms that are wanted.
        strengths: strengths of the strong augmentation.
    """
    counts, none = tuple(real), (0,) * len(real)
    plain = Arm("real", None, counts, none, Augmentation("none"), balanced=False)
    arms = [
        plain,
        replace(plain, name="real_balanced", balanced=True),
        Arm("real_augmented", None, counts, none, Augmentation("light")),
        *(
            Arm("real_strong", None, counts, none, Augmentation("strong", strength))
            for strength in sorted(set(strengths))
        ),
    ]
    return [arm for arm in arms if arm.name in names]


def missing_in_groups(real: Pool, synthetic: Pool, label: int) -> dict[int, int]:
    """Return subgroup -> synthetic images of a class that bring it closer to the class's largest subgroup."""
    if real.groups is None or synthetic.groups is None:
        return {}
    there = real.groups[real.rows(label)]
    groups, counts = np.unique(there[there != UNKNOWN_GROUP], return_counts=True)
    made = synthetic.groups[synthetic.rows(label)]
    return {
        group: min(int(counts.max()) - count, int((made == group).sum()))
        for group, count in zip(groups.tolist(), counts.tolist(), strict=True)
    }


def later_arms(
    real: Sequence[int],
    synthetic: Sequence[int],
    *,
    in_groups: Sequence[int],
    names: Sequence[str],
    ratios: Sequence[float],
    classes: Sequence[str],
    augmentation: Augmentation,
) -> tuple[list[Arm], list[str]]:
    """Return the other arms that can be trained, and notes on those for which there are too few images.

    The ratio holds within each class. The synthetic share is then independent of the class, and features that
    distinguish synthetic from real images cannot be mistaken for a finding. Each mixed arm has a rival with
    as many duplicates of real images.

    Args:
        real: real training images by class.
        synthetic: synthetic images by class.
        in_groups: synthetic images by class that fill up its rarer subgroups.
        names: arms that are wanted.
        ratios: synthetic images per real image.
        classes: class names, for the notes.
        augmentation: augmentation of all of them.
    """
    counts, none = tuple(real), (0,) * len(real)
    notes: list[str] = []
    mixed: list[Arm] = []
    for ratio in sorted(set(ratios)):
        wanted = [round(ratio * count) for count in real]
        used = tuple(min(a, b) for a, b in zip(wanted, synthetic, strict=True))
        capped = [f"{classes[i]} {used[i]} of {wanted[i]}" for i in range(len(real)) if used[i] < wanted[i]]
        if not sum(used) or any(arm.num_synthetic == used for arm in mixed):
            notes.append(
                f"ratio {ratio:g} adds nothing to the smaller ratios: the release has too few images"
            )
            continue
        if capped:
            notes.append(f"ratio {ratio:g} is capped by the size of the release: {', '.join(capped)}")
        mixed.append(Arm("real_synthetic", ratio, counts, used, augmentation))
    arms: list[Arm] = []
    for arm in mixed:
        together = tuple(a + b if a else 0 for a, b in zip(real, arm.num_synthetic, strict=True))
        repeated = tuple(max(a, b) if a else 0 for a, b in zip(real, arm.num_synthetic, strict=True))
        arms.append(replace(arm, name="real_duplicated", num_real=together, num_synthetic=none))
        arms.append(arm)
        if repeated != counts:
            arms.append(replace(arm, name="real_weighted", num_real=repeated))
        arms += [replace(arm, name=name) for name in CHOOSING_ARMS]
    if mixed:
        arms.append(replace(mixed[-1], name="pretrained", ratio=None, num_synthetic=tuple(synthetic)))
    most = max(real)
    filled = tuple(min(most - a, b) for a, b in zip(real, synthetic, strict=True))
    if sum(filled) > SOME * sum(real):
        arms.append(Arm("balancing", None, counts, filled, augmentation))
    if sum(in_groups) > SOME * sum(real):
        arms.append(Arm("balancing_groups", None, counts, tuple(in_groups), augmentation))
    lacking = [classes[i] for i, count in enumerate(synthetic) if count == 0 and real[i] > 0]
    if lacking:
        notes.append(f"synthetic only is not measured: the release holds no image of {', '.join(lacking)}")
    else:
        arms.append(Arm("synthetic", None, none, tuple(synthetic), augmentation))
    planned = [arm for arm in arms if arm.name in names]
    idle = [name for name in FILLING_ARMS if name in names and not any(arm.name == name for arm in planned)]
    if idle:
        notes.append(f"{', '.join(idle)}: not trained, because there are no images that fill anything up")
    return planned, notes


@dataclass(frozen=True)
class Confirmed:
    """What classifiers trained on real images say of the synthetic ones, each class by itself.

    Attributes:
        order: label -> positions of the images whose class they confirm, in random order.
        uncertain: label -> the same positions, the least certain first.
    """

    order: Mapping[int, Ints]
    uncertain: Mapping[int, Ints]


def confirmed(labels: Ints, targets: Targets, probabilities: Floats, seed: int) -> Confirmed:
    """Return which synthetic images classifiers trained on real images confirm.

    Args:
        labels: (n,) class that each image was made as.
        targets: what each image was made to show.
        probabilities: (n, C or K) mean of the classifiers.
        seed: seed of the random order.
    """
    read = readings_of(probabilities, targets)
    if targets.ndim == 1:
        agrees, uncertainty = read == targets, _entropy(probabilities)
    else:
        agrees = ((read == targets) | np.isnan(targets)).all(axis=1)
        uncertainty = _entropy(probabilities) + _entropy(1.0 - probabilities)
    rng = np.random.default_rng([seed, 2])
    rows = {label: np.flatnonzero(agrees & (labels == label)) for label in np.unique(labels).tolist()}
    return Confirmed(
        {label: rng.permutation(own) for label, own in rows.items()},
        {label: own[np.argsort(-uncertainty[own], kind="stable")] for label, own in rows.items()},
    )


def with_confirmed(arms: Sequence[Arm], chosen: Confirmed) -> tuple[list[Arm], list[str]]:
    """Return the arms with their numbers of confirmed images, and notes on those with too few of them."""
    available = {label: len(rows) for label, rows in chosen.order.items()}
    kept, notes = [], []
    for arm in arms:
        planned = enumerate(arm.num_synthetic)
        counts = tuple(min(count, available.get(label, 0)) for label, count in planned)
        if arm.name not in CHOOSING_ARMS:
            kept.append(arm)
        elif sum(counts) > SOME * sum(arm.num_real):
            kept.append(replace(arm, num_synthetic=counts))
        else:
            notes.append(f"{arm.key}: not trained, because too few images are confirmed")
    return kept, notes


def readings_of(probabilities: Floats, targets: Targets) -> Ints:
    """Return what classifiers read: the most probable class (n,), or the findings (n, K) as 0 and 1."""
    if targets.ndim == 1:
        return probabilities.argmax(axis=1)
    return (probabilities > 0.5).astype(np.int64)


def _entropy(probabilities: Floats) -> Floats:
    return -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1)


def training_sets(
    arm: Arm,
    real: Pool,
    synthetic: Pool,
    seed: int,
    *,
    question: Question,
    chosen: Confirmed | None = None,
) -> list[tuple[StoredPixels, Targets]]:
    """Return an arm's pixels (n, 1, H, W) and targets, drawn with `seed`: one set, or two in order.

    Each classifier seed draws its own synthetic images and duplicates, so that the spread over seeds includes
    this choice.

    Args:
        arm: the arm.
        real: real training images.
        synthetic: synthetic images.
        seed: classifier seed.
        question: what the classifiers are asked.
        chosen: confirmed synthetic images, needed by `CHOOSING_ARMS`.
    """
    rng = np.random.default_rng([seed, 1])
    real_rows: list[Ints] = []
    synthetic_rows: list[Ints] = []
    for label in range(len(arm.num_real)):
        if arm.num_real[label]:
            rows = real.rows(label)
            whole, rest = divmod(arm.num_real[label], len(rows))
            real_rows += [rows] * whole + [rng.permutation(rows)[:rest]]
        if arm.num_synthetic[label]:
            if arm.name == "uncertain":
                assert chosen is not None
                order = chosen.uncertain.get(label, _NONE)
            elif arm.name == "agreeing":
                assert chosen is not None
                order = rng.permutation(chosen.order.get(label, _NONE))
            elif arm.name == "balancing_groups":
                order = _filling(real, synthetic, label, rng)
            else:
                order = rng.permutation(synthetic.rows(label))
            synthetic_rows.append(order[: arm.num_synthetic[label]])
    first, second = (_joined(rows) for rows in (synthetic_rows, real_rows))
    if arm.name == "pretrained":
        used = ((synthetic, first), (real, second))
        return [(pool.load(rows), pool.targets(question, rows)) for pool, rows in used]
    filled = [own for own in ((real, second), (synthetic, first)) if len(own[1])]
    targets: list[Any] = [pool.targets(question, rows) for pool, rows in filled]
    return [(joined_pixels([pool.load(rows) for pool, rows in filled]), np.concatenate(targets))]


def _filling(real: Pool, synthetic: Pool, label: int, rng: np.random.Generator) -> Ints:
    """Return the positions of the synthetic images that fill up the subgroups of a class."""
    assert synthetic.groups is not None
    rows = rng.permutation(synthetic.rows(label))
    missing = missing_in_groups(real, synthetic, label)
    return _joined([rows[synthetic.groups[rows] == group][:count] for group, count in missing.items()])


def _joined(parts: list[Ints]) -> Ints:
    return np.concatenate(parts) if parts else _NONE
