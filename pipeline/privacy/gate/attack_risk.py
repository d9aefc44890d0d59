"""Linkability and attribute inference: how much better an attack does on train patients than on others.

An attack that only uses what the population has in common does equally well on patients who were never
trained on. Any excess is due to the release. The risk is (p_attack - p_control) / (1 - p_control), as in
Anonymeter (Giomi et al. 2023, arXiv 2211.10459).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from models.devices import default_device, to_device
from models.privacy.partial_copies import half_similarity
from models.privacy.pca import Components
from pipeline.arrays import Bools, Floats, Ints
from pipeline.artifacts.privacy_report import AttackRisk
from pipeline.privacy.search.references import References
from pipeline.privacy.settings import AuditSettings
from pipeline.progress import track

LINKED_NEIGHBOURS = 5
"""Number of released images that count as the neighbours of a half."""
LINKABILITY, ATTRIBUTE = "linkability", "attribute_inference"


@dataclass(frozen=True)
class Targets:
    """Scans that are attacked with the release.

    Attributes:
        images: (n, 1, h, w) in [-1, 1] at the search size.
        labels: (n,) class codes.
        patients: (n,) patient codes.
        in_train: (n,) whether the scan was trained on; the others are the control.
    """

    images: torch.Tensor
    labels: Ints
    patients: Ints
    in_train: Bools


@dataclass(frozen=True)
class Released:
    """The attacker's data: images (m, 1, h, w) in [-1, 1] at the search size, and class codes (m,)."""

    images: torch.Tensor
    labels: Ints


def attack_risks(
    targets: Targets,
    released: Released,
    components: Components,
    settings: AuditSettings,
    rng: np.random.Generator,
) -> tuple[AttackRisk, ...]:
    """Attack every target and compare train with the control, class by class.

    Args:
        targets: scans of train and of the control.
        released: the accepted images.
        components: components of train and holdout together, which favour neither side.
        settings: settings of the audit.
        rng: random generator of the bootstrap over patients.
    """
    draws = settings.membership.resamples
    attacks = {LINKABILITY: linked(targets, released, settings)}
    if len(np.unique(released.labels)) > 1:
        attacks[ATTRIBUTE] = class_guessed(targets, released, components)
    return tuple(risk(name, hit, targets, draws=draws, rng=rng) for name, hit in attacks.items())


def drawn_targets(references: References, rng: np.random.Generator) -> Targets:
    """Return all holdout scans and an equal number of randomly drawn train scans."""
    held = np.flatnonzero(~references.in_train)
    trained = np.flatnonzero(references.in_train)
    chosen = np.sort(np.concatenate([held, rng.permutation(trained)[: len(held)]]))
    return Targets(
        references.images[torch.from_numpy(chosen)],
        references.labels[chosen],
        references.patients[chosen],
        references.in_train[chosen],
    )


@torch.inference_mode()
def linked(targets: Targets, released: Released, settings: AuditSettings) -> Bools:
    """Return whether the left and the right half of each target (n,) can be linked to each other.

    The attacker has both halves separately and links them if one released image is among the nearest
    neighbours of both.
    """
    count = min(LINKED_NEIGHBOURS, len(released.images))
    found = []
    sides = ("left", "right")
    scans, known = (to_device(images, default_device()) for images in (targets.images, released.images))
    with track("linkability", len(scans), unit="scans") as progress:
        blocks = half_similarity(scans, known, sigma=settings.flat_field_sigma, halves=sides)
        for _, by_half in blocks:
            left, right = (by_half[side].topk(count, dim=1).indices for side in sides)
            found.append((left[:, :, None] == right[:, None, :]).flatten(1).any(dim=1))
            progress.update(len(left))
    return torch.cat(found).cpu().numpy()


@torch.inference_mode()
def class_guessed(targets: Targets, released: Released, components: Components) -> Bools:
    """Return whether the released image nearest to each target (n,) has the target's class."""
    device = default_device()
    described = components.to(device)
    known, ours = (described(to_device(images, device)) for images in (released.images, targets.images))
    nearest = torch.cat([(part @ known.T).argmax(dim=1) for part in ours.split(1024)]).cpu().numpy()
    guessed: Bools = released.labels[nearest] == targets.labels
    return guessed


def risk(name: str, success: Bools, targets: Targets, *, draws: int, rng: np.random.Generator) -> AttackRisk:
    """Return the risk of one attack with its 95 % interval (bootstrap over patients).

    The rates of the control are weighted to the class distribution of the train targets, so that a class that
    is harder and more frequent on one side does not count as a risk. The value is negative if the attack does
    better on the control.
    """
    inside = targets.in_train
    usable = np.intersect1d(targets.labels[inside], targets.labels[~inside])
    chosen = np.isin(targets.labels, usable)
    hits, labels, inside = success[chosen].astype(np.float64), targets.labels[chosen], inside[chosen]
    codes, owner = np.unique(targets.patients[chosen], return_inverse=True)
    cells = [(inside & (labels == k), ~inside & (labels == k)) for k in usable]

    def rates(weights: Floats) -> tuple[float, float]:
        sizes = np.array([weights[ours].sum() for ours, _ in cells])
        won = np.array([weights[ours] @ hits[ours] for ours, _ in cells])
        control = np.array(
            [weights[other] @ hits[other] / max(weights[other].sum(), 1e-12) for _, other in cells]
        )
        return float(won.sum() / sizes.sum()), float(sizes @ control / sizes.sum())

    attacked, control = rates(np.ones(len(hits)))
    drawn = []
    for _ in range(draws):
        times = np.bincount(rng.integers(len(codes), size=len(codes)), minlength=len(codes))
        drawn.append(_excess(*rates(times[owner].astype(np.float64))))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return AttackRisk(
        name=name,
        attacked=int(inside.sum()),
        controls=int((~inside).sum()),
        success=attacked,
        control_success=control,
        risk=_excess(attacked, control),
        interval=(float(low), float(high)),
    )


def _excess(attacked: float, control: float) -> float:
    return (attacked - control) / max(1.0 - control, 1e-6)
