"""Membership inference of one audit: against the release, and against the checkpoint if one is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.devices import default_device, to_device
from models.diffusion.denoiser import Denoiser
from models.noise import stream_seed
from models.privacy.membership import attack_scores
from models.privacy.pca import Components
from pipeline.arrays import Floats, Ints
from pipeline.artifacts.checkpoint import (
    CheckpointInfo,
    load_autoencoder,
    load_denoiser,
    read_checkpoint_info,
    ready,
)
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.conditions import CohortConditions, asked_conditions
from pipeline.artifacts.privacy_report import MembershipResult
from pipeline.cost.pacing import pace_of
from pipeline.privacy.gate.set_tests import holm
from pipeline.privacy.membership.attack import (
    COMBINED,
    Attacker,
    Groups,
    Read,
    audit_groups,
    checkpoint_scores,
)
from pipeline.privacy.membership.release_attack import release_scores
from pipeline.privacy.membership.results import Audited, attack_result
from pipeline.privacy.partial_results import Halfway
from pipeline.privacy.search.references import References
from pipeline.privacy.settings import AuditSettings

LEAST_KNOWN = 20
UNTRAINED, MEMBERS = "control_untrained", "control_members"


@dataclass(frozen=True)
class Membership:
    """Results of membership inference.

    Attributes:
        release: attacks with the released images alone.
        checkpoint: attacks with access to the model, empty if no checkpoint was given.
        controls: attacks that must find nothing; if one does, the attacks on the checkpoint mean nothing.
        not_run: why nothing was measured, empty otherwise.
        shortened: in words, the reduced number of known scans if the time limit allowed no more.
    """

    release: tuple[MembershipResult, ...] = ()
    checkpoint: tuple[MembershipResult, ...] = ()
    controls: tuple[MembershipResult, ...] = ()
    not_run: str = ""
    shortened: str = ""


def measure_membership(
    cohort: Cohort,
    references: References,
    released: torch.Tensor,
    components: Components,
    settings: AuditSettings,
    *,
    seed: int,
    checkpoint: Path | None,
    halfway: Halfway | None = None,
) -> Membership:
    """Attack with the data of a recipient of the release, and with the model itself.

    Args:
        cohort: cohort of the audit patients.
        references: its train and holdout images.
        released: (m, 1, h, w) accepted candidates in [-1, 1] at the search size.
        components: components of train and holdout together.
        settings: settings of the audit.
        seed: run seed.
        checkpoint: a verified checkpoint of this cohort, None to attack the release alone.
        halfway: keeps the scores of the checkpoint; None keeps nothing.
    """
    halfway = halfway or Halfway()
    groups = audit_groups(cohort, settings.membership.known_scans, np.random.default_rng([seed, 3]))
    not_run = _obstacle(groups, len(released), settings)
    if not_run:
        return Membership(not_run=not_run)
    patients = references.patients[references.places(groups.audited)]
    audited = Audited(patients, np.arange(len(patients)) < len(groups.inside))
    rows = groups.every
    scans = references.images[torch.from_numpy(references.places(rows))]
    closeness = release_scores(rows, scans, released, components, settings)
    outsider = Attacker(cohort, groups, closeness, np.random.default_rng([seed, 4]))
    found = outsider.by_attack(groups.audited)
    found["release_combined"] = found.pop(COMBINED)
    release = _tested(found, audited, settings, seed)
    if checkpoint is None:
        return Membership(release=release)
    info = read_checkpoint_info(checkpoint)
    denoiser, _ = load_denoiser(checkpoint, verified=info)
    read = _reader(cohort, checkpoint, info)
    title, own = "attack on the checkpoint", settings.membership
    known = halfway.number("known-scans", lambda: _affordable(groups, denoiser, read, settings, halfway))
    asked, groups = groups, groups.learning_from(known)
    rows = groups.every
    trained = checkpoint_scores(denoiser, rows, read, own, title=title, halfway=halfway)
    attacker = Attacker(cohort, groups, trained, np.random.default_rng([seed, 4]))
    model = _tested(attacker.by_attack(groups.audited), audited, settings, seed)

    fresh = _untrained(denoiser, info, seed)
    nothing = checkpoint_scores(fresh, rows, read, own, title="control: untrained", halfway=halfway)
    learnt = Attacker(cohort, groups, nothing, np.random.default_rng([seed, 4]))
    untrained = learnt.by_attack(groups.audited)[COMBINED]
    # Members compared with members: a coin flip without any effect.
    inside = attacker.by_attack(groups.inside)[COMBINED]
    halves = audited.members_halved(np.random.default_rng([seed, 6]))
    level = settings.significance / 2
    controls = tuple(
        attack_result(name, scores, who, own, np.random.default_rng([seed, stream]), level=level)
        for name, scores, who, stream in ((UNTRAINED, untrained, audited, 7), (MEMBERS, inside, halves, 8))
    )
    return Membership(release, model, controls, shortened=_shortened(asked, groups, settings))


def _affordable(
    groups: Groups, denoiser: Denoiser, read: Read, settings: AuditSettings, halfway: Halfway
) -> int:
    """Return how many known scans of each side the attacks on the checkpoint have time to learn from."""
    own = settings.membership
    if settings.half_seconds is None:
        return own.known_scans
    rows = groups.every[: own.batch_size]

    @torch.no_grad()
    def attack(count: int) -> None:
        attack_scores(denoiser, *read(rows[:count]), own.sigmas)

    each = pace_of(attack, len(rows)).seconds / len(rows)
    # Every scan is scored by the checkpoint and by the untrained control.
    scans = int(halfway.num_processes * settings.half_seconds / (2 * each))
    return min(max((scans - len(groups.audited)) // 2, LEAST_KNOWN), own.known_scans)


def _shortened(asked: Groups, taken: Groups, settings: AuditSettings) -> str:
    if len(taken.every) == len(asked.every):
        return ""
    return (
        f"the attacks on the checkpoint learned from {len(taken.known_inside)} of "
        f"{len(asked.known_inside)} known train scans and {len(taken.known_outside)} of "
        f"{len(asked.known_outside)} of the holdout because of audit.max_minutes={settings.max_minutes:g}: "
        "they find less than with all of them"
    )


def _obstacle(groups: Groups, released: int, settings: AuditSettings) -> str:
    """Return in words why nothing can be measured, or ""."""
    if not settings.membership.enabled:
        return "membership inference was disabled"
    if not released:
        return "no candidate was accepted"
    if not len(groups.inside) or not len(groups.outside):
        return "the cohort has no audit patients on both sides (ingest.audit_share)"
    if min(len(groups.known_inside), len(groups.known_outside)) < LEAST_KNOWN:
        return f"fewer than {LEAST_KNOWN} other scans of train or of the holdout to learn the attack from"
    return ""


def _tested(
    scores: dict[str, Floats], audited: Audited, settings: AuditSettings, seed: int
) -> tuple[MembershipResult, ...]:
    """Measure every attack, with Holm-adjusted p-values."""
    results = [
        attack_result(
            name,
            own,
            audited,
            settings.membership,
            np.random.default_rng([seed, 5, place]),
            level=settings.significance / len(scores),
        )
        for place, (name, own) in enumerate(scores.items())
    ]
    adjusted = holm([result.p_value for result in results])
    return tuple(
        result.model_copy(update={"adjusted_p_value": p, "passed": p >= settings.significance})
        for result, p in zip(results, adjusted, strict=True)
    )


def _reader(cohort: Cohort, checkpoint: Path, info: CheckpointInfo) -> Read:
    """Return a function that reads rows in the form that this checkpoint's denoiser was trained on."""
    conditions = CohortConditions(cohort, asked_conditions(info.conditions))
    autoencoder, device = load_autoencoder(checkpoint, verified=info), default_device()

    def read(rows: Ints) -> tuple[torch.Tensor, torch.Tensor]:
        clean = to_device(torch.from_numpy(cohort.images(rows)), device)
        if autoencoder is not None:
            clean = autoencoder.normalise(autoencoder.moments(clean).float().chunk(2, dim=1)[0])
        return clean, to_device(torch.from_numpy(conditions.codes(rows)), device)

    return read


def _untrained(denoiser: Denoiser, info: CheckpointInfo, seed: int) -> Denoiser:
    """Return an untrained denoiser of the same shape and precision; none of its layers is zero."""
    fresh = Denoiser(
        denoiser.spec,
        sigma_data=denoiser.sigma_data,
        parametrisation=denoiser.parametrisation,
        seed=stream_seed(seed, "untrained control"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "untrained control", 1) % 2**31)
        for weight in fresh.parameters():
            if not weight.any():
                torch.nn.init.normal_(weight, std=0.02)
    return ready(fresh, info)
