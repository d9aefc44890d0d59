"""What an audit would do, and what it would need: copy embedding, search and attacks, measured."""

from __future__ import annotations

import math

import numpy as np

from pipeline.cost.estimate import (
    PAGE_BYTES,
    TABLE_BYTES_A_ROW,
    Cost,
    Foreseen,
    Given,
    StagePlan,
    Workload,
    known_digest,
    outlook_of,
    workload_of,
)
from pipeline.cost.memory import device_peak, reset_device_peak
from pipeline.cost.network import denoise_pace
from pipeline.cost.pacing import TIMED_CALLS, Pace, pace_of, seconds_of
from pipeline.privacy.audited_files import find_images
from pipeline.privacy.earlier_inputs import earlier_input
from pipeline.privacy.settings import AuditSettings
from pipeline.records import AuditRef, CandidatesRef, CheckpointRef, CohortRef
from pipeline.stage import REFERENCE_NAME, StageInputs, folder_of, reference_of

_QUERIES, _REFERENCES = 32, 10_000
"""Images that the search is timed with, and real images that it is timed on, at most."""


def plan_audit(
    candidates: Given[CandidatesRef],
    cohort: Given[CohortRef],
    settings: AuditSettings,
    *,
    seed: int,
    checkpoint: Given[CheckpointRef] | None = None,
) -> StagePlan[AuditRef]:
    """Say what `run_audit` would do with these arguments.

    Raises:
        DataError: cohort, checkpoint or an earlier release is not a finished output, or the candidates are
            neither that nor class-named folders of images.
    """
    digest, num_images, num_asked = _audited(candidates)
    wanted = audit_inputs(digest, known_digest(CohortRef, cohort), settings, seed=seed)
    if checkpoint is not None:
        wanted = wanted.reading(checkpoint=known_digest(CheckpointRef, checkpoint))
    return StagePlan(
        wanted,
        estimate=lambda: estimate_audit(settings, workload_of(cohort), num_images, checkpoint),
        foresee=lambda: Foreseen(workload_of(cohort), num_images=num_asked, num_asked=num_asked),
    )


def audit_inputs(
    candidates: str | None, cohort: str | None, settings: AuditSettings, *, seed: int
) -> StageInputs[AuditRef]:
    """Return what decides an audit that attacks no checkpoint, from the digests of what it reads."""
    inputs = {"candidates": candidates, "cohort": cohort, **earlier_input(settings)}
    return StageInputs(AuditRef, inputs, settings.content_settings(), seed)


def estimate_audit(
    settings: AuditSettings, work: Workload, num_candidates: int, checkpoint: Given[CheckpointRef] | None
) -> Cost:
    """Estimate the audit: steps of the copy embedding, the search of every candidate and holdout scan, and,
    where a checkpoint is named, the attacks on it and on an untrained network of its shape."""
    from pipeline.privacy.gate.planted_copies import KINDS

    references = max(work.num_train + work.num_holdout, 2)
    folds = max(1, min(16, round(work.num_train / max(work.num_holdout, 1))))
    known = work.num_holdout + min(settings.control_scans, work.num_train)
    queries = num_candidates + known + len(KINDS) * settings.planted_per_kind
    step = _embedding_step(settings, work)
    if references > settings.exhaustive_limit:
        references = min(references, 2 * settings.index_shortlist * (folds + 1))
    query = _query(settings, work.image_size, references, folds)
    limit = settings.half_seconds or math.inf
    seconds = min(settings.embedding_steps * step.seconds, limit) + queries * query.seconds + 2.0
    paces = [step, query]
    if checkpoint is not None and settings.membership.enabled:
        paces.append(_attack(settings, work, outlook_of(checkpoint)))
        seconds += min(2 * paces[-1].seconds, limit)
    return Cost.here(
        seconds,
        disk_bytes=num_candidates * TABLE_BYTES_A_ROW + PAGE_BYTES // 3,
        device_bytes=max(pace.device_bytes for pace in paces),
    )


def _audited(candidates: Given[CandidatesRef]) -> tuple[str | None, int, int]:
    """Return digest and number of the candidates, and how many of them are to pass the gate."""
    if isinstance(candidates, Foreseen):
        return None, candidates.num_images, candidates.num_asked
    folder = folder_of(candidates)
    if not (folder / REFERENCE_NAME).is_file():
        found = find_images(folder)
        return found.digest(found.hashes()), len(found.images), len(found.images)
    reference = reference_of(CandidatesRef, candidates)
    count = reference.counts.get("candidates", 0)
    asked = reference.counts.get("per_class", count) * reference.counts.get("classes", 1)
    return reference.digest, count, min(asked, count)


def _attack(settings: AuditSettings, work: Workload, attacked: Foreseen) -> Pace:
    """Measure the scoring of known and audit scans by every attack on one denoiser."""
    from models.privacy.membership import num_passes

    assert attacked.network is not None
    own = settings.membership
    known = min(own.known_scans, work.num_train) + min(own.known_scans, work.num_holdout)
    batches = -(-(known + work.num_audited) // own.batch_size)
    pace = denoise_pace(attacked.network, own.batch_size)
    return pace.times(batches * num_passes(len(own.sigmas)))


def _embedding_step(settings: AuditSettings, work: Workload) -> Pace:
    """Measure one optimiser step of the copy-detection embedding on the train images."""
    import torch

    from pipeline.privacy.search.embedding_cache import train_embedding

    batch = max(2, min(settings.embedding_batch, work.num_train))
    images = torch.rand(batch, 1, *_search_shape(settings, work.image_size)) * 2 - 1

    def steps(count: int) -> None:
        few = {"embedding_steps": TIMED_CALLS, "embedding_batch": max(2, count)}
        train_embedding(images, settings.model_copy(update=few))

    return pace_of(steps, batch).times(1 / TIMED_CALLS)


def _query(settings: AuditSettings, image_size: tuple[int, int], num_references: int, num_folds: int) -> Pace:
    """Measure the copy search of one image among all references."""
    import torch

    from models.devices import default_device
    from pipeline.privacy.partial_results import QUERIES_A_PIECE
    from pipeline.privacy.search.pixel_views import PixelSearch
    from pipeline.progress import Silent

    shape, device = _search_shape(settings, image_size), default_device()
    # An accelerator takes about as long for a few as for as many as the audit hands it at a time.
    count = _QUERIES if device.type == "cpu" else QUERIES_A_PIECE
    reset_device_peak()
    queries = torch.rand(count, 1, *shape, device=device)
    # Time and memory are proportional to the references.
    share = min(1.0, _REFERENCES / num_references)
    numbers = np.arange(round(share * num_references))
    groups = numbers % (num_folds + 1)
    pixels = PixelSearch(
        torch.rand(len(numbers), 1, *shape, device=device),
        numbers,
        groups < num_folds,
        groups,
        settings,
        texture=0.0,
    )

    def search() -> None:
        with torch.inference_mode():
            pixels.search(queries, torch.full((count,), -1, device=device), Silent())

    seconds = seconds_of(search, timed=1) / count / share
    return Pace(seconds, count, round(device_peak() / share))


def _search_shape(settings: AuditSettings, image_size: tuple[int, int]) -> tuple[int, int]:
    shrink = min(1.0, settings.search_size / max(image_size))
    return round(image_size[0] * shrink), round(image_size[1] * shrink)
