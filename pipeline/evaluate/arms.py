"""Utility arms: which real and synthetic images each classifier is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.release import ReleasedImages

REAL_ARMS = ("real", "real_augmented", "real_duplicated")
"""Arms without synthetic images, which a synthetic arm has to beat."""
SYNTHETIC_ARMS = ("real_synthetic", "synthetic")


@dataclass(frozen=True)
class Arm:
    """A recipe for a training set.

    Attributes:
        name: one of `REAL_ARMS` or `SYNTHETIC_ARMS`.
        ratio: requested synthetic (or duplicated) images per real image; None if not applicable.
        num_real: real images by class, duplicates included.
        num_synthetic: synthetic images by class.
        augmented: whether training is class-balanced with small shifts and brightness changes. All arms
            except `real` are, so that a synthetic arm never wins by this alone.
    """

    name: str
    ratio: float | None
    num_real: tuple[int, ...]
    num_synthetic: tuple[int, ...]
    augmented: bool = True

    @property
    def key(self) -> str:
        """A short name that is unique within a plan, as in `real_synthetic-0.5`."""
        return self.name if self.ratio is None else f"{self.name}-{self.ratio:g}"

    @property
    def words(self) -> str:
        """The arm in words."""
        shown = {
            "real": "real images",
            "real_augmented": "real images, balanced and augmented",
            "real_duplicated": "real images duplicated to the synthetic arm's count",
            "real_synthetic": "real + synthetic images",
            "synthetic": "synthetic images only",
        }[self.name]
        return f"{shown} (ratio {self.ratio:g})" if self.name == "real_synthetic" else shown


def plan_arms(
    real: Sequence[int], released: Sequence[int], ratios: Sequence[float], classes: Sequence[str]
) -> tuple[list[Arm], list[str]]:
    """Return the arms that can be trained, and notes on those for which the release is too small.

    The ratio holds within each class. The synthetic share is then independent of the class, and features that
    distinguish synthetic from real images cannot be mistaken for a finding.

    Args:
        real: real training images by class.
        released: released images by class.
        ratios: synthetic images per real image.
        classes: class names, for the notes.
    """
    none = (0,) * len(real)
    arms = [
        Arm("real", None, tuple(real), none, augmented=False),
        Arm("real_augmented", None, tuple(real), none),
    ]
    notes: list[str] = []
    mixed: list[Arm] = []
    for ratio in sorted(set(ratios)):
        wanted = [round(ratio * count) for count in real]
        used = tuple(min(a, b) for a, b in zip(wanted, released, strict=True))
        capped = [f"{classes[i]} {used[i]} of {wanted[i]}" for i in range(len(real)) if used[i] < wanted[i]]
        if not sum(used) or any(arm.num_synthetic == used for arm in mixed):
            notes.append(
                f"ratio {ratio:g} adds nothing to the smaller ratios: the release has too few images"
            )
            continue
        if capped:
            notes.append(f"ratio {ratio:g} is capped by the size of the release: {', '.join(capped)}")
        mixed.append(Arm("real_synthetic", ratio, tuple(real), used))
    if mixed:
        extra = mixed[-1]
        counts = tuple(a + b if a else 0 for a, b in zip(real, extra.num_synthetic, strict=True))
        arms.append(Arm("real_duplicated", extra.ratio, counts, none))
    arms += mixed
    lacking = [classes[i] for i, count in enumerate(released) if count == 0 and real[i] > 0]
    if lacking:
        notes.append(f"synthetic only is not measured: the release holds no image of {', '.join(lacking)}")
    else:
        arms.append(Arm("synthetic", None, none, tuple(released)))
    return arms, notes


def training_set(
    arm: Arm, cohort: Cohort, release: ReleasedImages, seed: int
) -> tuple[npt.NDArray[np.float32], Ints]:
    """Return an arm's images (n, 1, H, W) in [-1, 1] and labels (n,), drawn with `seed`.

    Each classifier seed draws its own synthetic images and duplicates, so that the spread over seeds includes
    this choice.
    """
    rng = np.random.default_rng([seed, 1])
    real_rows: list[Ints] = []
    synthetic_rows: list[Ints] = []
    for label in range(len(arm.num_real)):
        rows = cohort.rows("train", label)
        if arm.num_real[label]:
            whole, rest = divmod(arm.num_real[label], len(rows))
            real_rows += [rows] * whole + [rng.permutation(rows)[:rest]]
        if arm.num_synthetic[label]:
            synthetic_rows.append(rng.permutation(release.rows(label))[: arm.num_synthetic[label]])
    real = _joined(real_rows)
    synthetic = _joined(synthetic_rows)
    images = np.concatenate([cohort.images(real), release.images(synthetic)])
    labels = np.concatenate([np.asarray(cohort.labels)[real], release.labels[synthetic]])
    return images, labels.astype(np.int64)


def _joined(parts: list[Ints]) -> Ints:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
