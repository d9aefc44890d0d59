"""What a stage will cost: work counted from settings and data, times speeds measured on this machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts.cohort import CohortInfo
from pipeline.cost import speed
from pipeline.distributed.cpu_threads import usable_cores
from pipeline.errors import DataError
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import Manifest
from pipeline.manifest.medmnist_rules import MedmnistSource
from pipeline.manifest.model import PhantomSource
from pipeline.recipe import Recipe

MEBIBYTE = 2**20
PREFECT_BYTES = 350 * MEBIBYTE
"""Resident memory of Prefect's client and of its temporary server."""

_REPORT_BYTES = 3 * MEBIBYTE
_TABLE_BYTES_A_ROW = 200


@dataclass(frozen=True)
class Estimate:
    """What a stage is expected to need.

    Attributes:
        seconds: wall time; memory_bytes: peak resident memory of all its processes together; disk_bytes: what
            its output takes.
    """

    seconds: float
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class Workload:
    """What the stages will see of a cohort, known or foreseen.

    Attributes:
        num_scans: scans of all splits; num_train, num_val, num_test, num_holdout: of each.
        num_classes: classes; image_size: (height, width); bytes_a_pixel: 1 or 2.
    """

    num_scans: int
    num_train: int
    num_val: int
    num_test: int
    num_holdout: int
    num_classes: int
    image_size: tuple[int, int]
    bytes_a_pixel: int

    @property
    def image_bytes(self) -> int:
        """Bytes of one stored image."""
        return self.image_size[0] * self.image_size[1] * self.bytes_a_pixel


def workload_of_cohort(info: CohortInfo) -> Workload:
    """Return the workload of a cohort that is there."""
    counts = {split: sum(classes.values()) for split, classes in info.counts.items()}
    return Workload(
        num_scans=info.num_scans,
        num_train=counts.get("train", 0),
        num_val=counts.get("val", 0),
        num_test=counts.get("test", 0),
        num_holdout=counts.get("holdout", 0),
        num_classes=len(info.classes),
        image_size=info.image_size,
        bytes_a_pixel=info.bit_depth // 8,
    )


def foresee_ingest(manifest: Manifest, settings: IngestSettings) -> tuple[Workload, Estimate]:
    """Return the cohort that ingest would make, and what making it costs. Nothing is fetched or kept.

    Raises:
        DataError: the data has to be downloaded first, or is missing.
    """
    num_scans, num_test, classes, seconds, cache_bytes = 0, 0, set[str](), 0.0, 0
    cores = settings.workers or usable_cores()
    for source in manifest.sources:
        if isinstance(source, PhantomSource):
            from pipeline.sources.phantom import phantom_folder, phantom_settings

            phantom = phantom_settings(source, settings.phantom_patients)
            count = round(phantom.num_patients * sum(phantom.images_per_patient) / 2)
            made, read, size = speed.phantom_seconds(phantom)
            if not phantom_folder(phantom).is_dir():
                seconds += count * made
                cache_bytes += count * size
            seconds += _spread(count * read, cores)
            num_scans += count
            classes |= {name for name, weight in phantom.class_weights.items() if weight > 0}
        elif isinstance(source, MedmnistSource) and not _local(manifest, source, settings.image_size):
            raise DataError(
                "the data is not on this machine yet, so its size is unknown",
                field=f"sources ({source.kind})",
                remedy="Name a local path, or run ingest once, which downloads it.",
            )
    if num_scans == 0:
        num_scans, num_test, classes, seconds = _listed(manifest, settings, cores)
    size = settings.image_size
    if manifest.geometry.native_size is not None:
        size = min(size, manifest.geometry.native_size)
    kept = manifest.split.keep_test is not None
    pool = num_scans - num_test
    test = num_test if kept else round(settings.test_share * pool)
    pool = num_scans - test
    held = round((settings.holdout_share + settings.audit_share / 2) * pool)
    val = round(settings.val_share * pool)
    workload = Workload(
        num_scans=num_scans,
        num_train=pool - held - val,
        num_val=val,
        num_test=test,
        num_holdout=held,
        num_classes=len(manifest.classes or classes),
        image_size=(size, size),
        bytes_a_pixel=settings.bit_depth // 8,
    )
    disk = num_scans * (workload.image_bytes + _TABLE_BYTES_A_ROW) + _REPORT_BYTES // 3 + cache_bytes
    return workload, Estimate(seconds + 1.0, speed.resident_bytes(), disk)


def estimate_train(recipe: Recipe, work: Workload) -> Estimate:
    """Estimate training: steps times the time of a step of the real network at the real batch size."""
    settings = recipe.train
    measured = speed.train_speed(settings, work.image_size, work.num_classes)
    step, parameters = measured.seconds, measured.parameters
    seconds = settings.num_steps * step
    if settings.max_minutes is not None:
        seconds = min(seconds, 60.0 * settings.max_minutes)
    seconds += 1.0
    if settings.precision == "auto":
        seconds += 12 * step
    if settings.grid_every_steps:
        seconds += settings.num_steps // settings.grid_every_steps * 8 * step
    lengths = len(settings.ema_lengths)
    # EMA weights, and two generations of weights, averages and both moments of AdamW, in fp32; snapshots of
    # the averages in 16 bits.
    disk = parameters * (4 * (1 + 2 * (3 + lengths)) + 2 * lengths * settings.ema_snapshots)
    if settings.latent.enabled:
        autoencoder = speed.autoencoder_speed(settings, work.image_size)
        seconds += settings.latent.num_steps * autoencoder.step_seconds
        seconds += work.num_train * autoencoder.encode_seconds
        disk += autoencoder.parameters * 4 * (1 + 2 * 4) + work.num_train * autoencoder.moment_bytes
    return Estimate(seconds, speed.resident_bytes() + measured.more_bytes, disk)


def estimate_sample(recipe: Recipe, work: Workload) -> Estimate:
    """Estimate sampling: batches times denoise calls times the time of one.

    The network is the one of `recipe.train`; `work.num_classes` classes are drawn.
    """
    from models.samplers import SAMPLERS

    settings = recipe.sample
    entry = SAMPLERS[settings.sampler]
    calls = entry.num_passes(settings.num_steps or entry.recommended_steps) * (
        2 if settings.guidance_scale != 1.0 else 1
    )
    count = settings.candidates_per_class * work.num_classes
    batches = -(-count // settings.batch_size)
    call = speed.denoise_seconds(recipe.train, settings, work.image_size, work.num_classes)
    seconds = batches * calls * call + 1.0
    if recipe.train.latent.enabled:
        seconds += count * speed.autoencoder_speed(recipe.train, work.image_size).decode_seconds
    return Estimate(
        seconds,
        speed.resident_bytes(),
        count * (work.image_bytes + _TABLE_BYTES_A_ROW),
    )


def estimate_edit(recipe: Recipe, work: Workload, count: int) -> Estimate:
    """Estimate editing `count` images: batches times denoise calls times the time of one."""
    from pipeline.edit.draw import num_denoise_calls

    settings = recipe.edit
    calls = num_denoise_calls(settings) * (2 if settings.guidance_scale != 1.0 else 1)
    batch = recipe.sample.model_copy(update={"batch_size": settings.batch_size})
    call = speed.denoise_seconds(recipe.train, batch, work.image_size, work.num_classes)
    return Estimate(
        -(-count // settings.batch_size) * calls * call + 1.0,
        speed.resident_bytes(),
        count * (work.image_bytes + 2 * _TABLE_BYTES_A_ROW) + MEBIBYTE // 2,
    )


def estimate_audit(recipe: Recipe, work: Workload, num_candidates: int, *, with_checkpoint: bool) -> Estimate:
    """Estimate the audit: steps of the copy embedding, the search of every candidate and holdout scan, and,
    where a checkpoint is named, the attacks on it and on an untrained network of its shape."""
    from pipeline.privacy.gate.planted_copies import KINDS

    settings, count = recipe.audit, num_candidates
    references = max(work.num_train + work.num_holdout, 2)
    folds = max(1, min(16, round(work.num_train / max(work.num_holdout, 1))))
    known = work.num_holdout + min(settings.control_scans, work.num_train)
    queries = count + known + len(KINDS) * settings.planted_per_kind
    step = speed.embedding_step_seconds(settings, work.image_size, work.num_train)
    if references > settings.exhaustive_limit:
        references = min(references, 2 * settings.index_shortlist * (folds + 1))
    query = speed.search_seconds(settings, work.image_size, references, folds)
    limit = settings.half_seconds or math.inf
    seconds = min(settings.embedding_steps * step, limit) + queries * query + 2.0
    if with_checkpoint and settings.membership.enabled:
        seconds += min(2 * _attack_seconds(recipe, work), limit)
    disk = count * _TABLE_BYTES_A_ROW + _REPORT_BYTES // 6
    return Estimate(seconds, speed.resident_bytes(), disk)


def _attack_seconds(recipe: Recipe, work: Workload) -> float:
    """Return the seconds of scoring known and audit scans by every attack on one denoiser."""
    from models.privacy.membership import num_passes

    settings = recipe.audit.membership
    known = min(settings.known_scans, work.num_train) + min(settings.known_scans, work.num_holdout)
    audited = round(recipe.ingest.audit_share * (work.num_train + work.num_holdout))
    batch = recipe.sample.model_copy(update={"batch_size": settings.batch_size})
    call = speed.denoise_seconds(recipe.train, batch, work.image_size, work.num_classes)
    return -(-(known + audited) // settings.batch_size) * num_passes(len(settings.sigmas)) * call


def estimate_release(work: Workload, num_images: int) -> Estimate:
    """Estimate the release: small files, each written and synced."""
    disk = num_images * (work.image_bytes + 4 * _TABLE_BYTES_A_ROW) + MEBIBYTE // 2
    return Estimate(2.0 + num_images * _synced_file_seconds(), speed.resident_bytes(), disk)


def estimate_evaluate(recipe: Recipe, work: Workload) -> Estimate:
    """Estimate the evaluation: one classifier an arm and seed, side by side on the cores, and the encoder."""
    settings = recipe.evaluate
    arms = 4 + len(settings.ratios)
    step = speed.classifier_step_seconds(settings, work.image_size, work.num_classes)
    limit = math.inf if settings.max_minutes is None else 60.0 * settings.max_minutes
    arms_seconds = arms * settings.seeds * settings.num_steps * step / usable_cores()
    seconds = min(arms_seconds, limit) + settings.encoder_steps * step + 3.0
    disk = arms * settings.seeds * (work.num_val + work.num_test) * work.num_classes * 8 + _REPORT_BYTES // 6
    return Estimate(seconds, speed.resident_bytes(), disk)


def estimate_report() -> Estimate:
    """Estimate the run's report: drawing the figures and one HTML page."""
    return Estimate(5.0, speed.resident_bytes(), _REPORT_BYTES // 2)


def _listed(manifest: Manifest, settings: IngestSettings, cores: int) -> tuple[int, int, set[str], float]:
    """Return (scans, scans of the published test part, classes, seconds) of sources that are there."""
    from pipeline.sources.listing import list_scans

    listing = list_scans(manifest, image_size=settings.image_size)
    usable = [task for task in listing.tasks if not task.refusal]
    if not usable:
        raise DataError("no usable scan is listed", field="sources", remedy="Check path and labels.")
    each = speed.ingest_seconds(usable, settings.image_size)
    keep = manifest.split.keep_test
    position = listing.published.index(keep) if keep in listing.published else None
    num_test = sum(
        position is not None and task.published[position] == manifest.split.test_part for task in usable
    )
    return len(usable), num_test, {task.label for task in usable}, _spread(len(usable) * each, cores)


def _local(manifest: Manifest, source: MedmnistSource, image_size: int) -> bool:
    path = source.chosen(image_size)[0]
    return path is not None and manifest.present(path) is not None


def _spread(seconds: float, cores: int) -> float:
    """Spread work over worker processes, which ingest starts only where that pays."""
    return seconds if seconds < 3.0 else 1.0 + seconds / cores


def _synced_file_seconds() -> float:
    """Return the seconds of writing one small file and syncing it to disk here."""
    import tempfile
    import time

    from pipeline.storage import write_text

    with tempfile.TemporaryDirectory(prefix="phosphor-estimate-") as name:
        started = time.perf_counter()
        for number in range(5):
            write_text(Path(name) / str(number), "x" * 1000)
        return (time.perf_counter() - started) / 5
