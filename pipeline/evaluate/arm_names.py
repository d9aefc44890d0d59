"""Names of the utility arms, and what each of them is in words; no torch, for the settings name them."""

from __future__ import annotations

from typing import Literal, get_args

RealArm = Literal["real", "real_balanced", "real_augmented", "real_strong", "real_duplicated"]
SyntheticArm = Literal[
    "real_synthetic",
    "real_weighted",
    "pretrained",
    "agreeing",
    "uncertain",
    "balancing",
    "balancing_groups",
    "synthetic",
]
REAL_ARMS: tuple[str, ...] = get_args(RealArm)
"""Arms without synthetic images, which a synthetic arm has to beat."""
SYNTHETIC_ARMS: tuple[str, ...] = get_args(SyntheticArm)

WORDS = {
    "real": "real images",
    "real_balanced": "real images, balanced",
    "real_augmented": "real images, balanced and lightly augmented",
    "real_strong": "real images, balanced and strongly augmented",
    "real_duplicated": "real images duplicated to the synthetic arm's count",
    "real_synthetic": "real + synthetic images",
    "real_weighted": "real + synthetic images, real ones repeated to the same count",
    "pretrained": "pre-training on synthetic, then fine-tuning on real images",
    "agreeing": "real + synthetic images whose label a classifier trained on real images confirms",
    "uncertain": "real + confirmed synthetic images of which that classifier is least certain",
    "balancing": "real images, the rarer classes filled up with synthetic ones",
    "balancing_groups": "real images, the rarer subgroups of each class filled up with synthetic ones",
    "synthetic": "synthetic images only",
}
"""Each arm in words. A ratio or strength is added where there is one."""

PLAIN_ARMS = frozenset(WORDS) - {"real_augmented", "real_strong", "pretrained"}
"""Arms that need neither augmentation nor fine-tuning, which any classifier can train."""
FILLING_ARMS = ("balancing", "balancing_groups")
"""Arms whose synthetic images fill up what is rare."""
CHOOSING_ARMS = ("agreeing", "uncertain")
"""Arms whose synthetic images are chosen by classifiers trained on real images."""
