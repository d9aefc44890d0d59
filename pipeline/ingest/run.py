"""The ingest stage: lists the scans, reads them in parallel, splits them by patient, writes the cohort."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.cohort import CohortInfo
from pipeline.errors import DataError
from pipeline.identity import Pseudonyms, load_key
from pipeline.ingest.assemble import Written, write_cohort
from pipeline.ingest.earlier import Earlier, drop_aside, earlier_of
from pipeline.ingest.findings import PRESENT, findings_of
from pipeline.ingest.looks import compare_images
from pipeline.ingest.parts import FOLDER, read_rows
from pipeline.ingest.pool import chunk_length, run_chunks
from pipeline.ingest.reads import ReadsWriter
from pipeline.ingest.settings import IngestSettings
from pipeline.ingest.survey import Overview, survey
from pipeline.ingest.worker import WorkOrder
from pipeline.manifest import Manifest
from pipeline.manifest.rules import NAME_PATTERN
from pipeline.pixels import stored_dtype
from pipeline.records import CohortRef
from pipeline.sources.folders import Listing
from pipeline.sources.listing import inputs_digest, list_scans
from pipeline.sources.stores import drop_unpacked
from pipeline.stage import open_stage
from pipeline.storage import write_json

logger = logging.getLogger(__name__)


def ingest(manifest: Manifest, out: Path, settings: IngestSettings, *, force: bool = False) -> CohortRef:
    """Do the stage; `pipeline.ingest.run_ingest` is its public name and says what it takes and raises."""
    from pipeline.ingest.private_map import check_map_path, write_private_map

    check_map_path(settings.private_map, out)
    listing = list_scans(manifest, phantom_patients=settings.phantom_patients, image_size=settings.image_size)
    inputs, stable = ingest_inputs(manifest, settings, listing)
    inputs["previous"], earlier = earlier_of(out, inputs, settings, force=force)
    with open_stage(CohortRef, out, inputs=inputs, settings=stable, force=force) as stage:
        if stage.finished is not None:
            logger.info("cohort: reused, nothing has changed")
            reference = stage.finished
        else:
            files, counts = _make(manifest, listing, stage.path, settings, earlier)
            reference = stage.finish(files, counts)
        shutil.rmtree(stage.path / FOLDER, ignore_errors=True)
        drop_aside(out)
    if settings.private_map is not None:
        write_private_map(settings.private_map, listing.tasks)
    return reference


def ingest_inputs(
    manifest: Manifest, settings: IngestSettings, listing: Listing
) -> tuple[dict[str, str], IngestSettings]:
    """Return what `open_stage` needs to tell whether an existing cohort is of the same inputs."""
    # Another key gives other pseudonyms; a digest of 256 random bits tells nothing about them.
    key = hashlib.sha256(b"phosphor key\0" + load_key()).hexdigest()
    return {**inputs_digest(manifest, listing), "key": key}, settings.content_settings()


def _make(
    manifest: Manifest, listing: Listing, out: Path, settings: IngestSettings, earlier: Earlier | None
) -> tuple[list[str], dict[str, int]]:
    from pipeline.ingest.report import write_quality_page

    size = min(settings.image_size, manifest.geometry.native_size or settings.image_size)
    order = WorkOrder(
        folder=out / FOLDER,
        key=load_key(),
        dataset=manifest.name,
        split_seed=settings.split_seed,
        image_size=size,
        bit_depth=settings.bit_depth,
        fit=manifest.geometry.fit,
        robust=settings.intensity == "robust",
        percentiles=settings.percentiles,
        burned_in_text=settings.burned_in_text,
        modalities=manifest.expect.modalities if manifest.expect is not None else (),
        views=manifest.expect.views if manifest.expect is not None else (),
        refuse_unexpected=settings.unexpected == "quarantine",
        earlier=earlier.path if earlier is not None else None,
    )
    length = chunk_length(len(listing.tasks), settings.chunk_scans)
    num_parts = run_chunks(
        order,
        listing.tasks,
        length=length,
        workers=settings.workers,
        scan_seconds=settings.scan_seconds,
    )
    drop_unpacked({task.rule for task in listing.tasks})
    origin = task_of_rows(order.folder, num_parts, length, settings.max_reject_share)
    classes = _classes(manifest, listing)
    codes = {name: code for code, name in enumerate(classes)}
    labels = np.array([codes.get(task.label, -1) for task in listing.tasks], dtype=np.int64)[origin]
    findings = findings_of(listing.findings, listing.tasks, origin)
    published = {
        name: [listing.tasks[number].published[place] for number in origin]
        for place, name in enumerate(listing.published)
    }
    kept_test = _kept_test(manifest, published, len(labels))
    looks = compare_images(
        order.folder,
        num_parts,
        labels,
        len(classes),
        settings,
        parts=next(iter(published.values()), [""] * len(labels)),
        image_size=size,
        dtype=stored_dtype(settings.bit_depth),
    )
    overview = survey(
        order.folder,
        num_parts,
        labels=labels,
        published=published,
        classes=classes,
        settings=settings,
        kept_test=kept_test,
        claims=_claims(listing, origin),
        keeps_test=manifest.split.keep_test is not None,
        findings=findings.states == PRESENT,
        known=earlier.known_sides(manifest.name, settings) if earlier is not None else {},
        alike=looks.alike if looks.near is not None else None,
        join_alike=settings.near_duplicates == "join",
    )
    written = write_cohort(
        out,
        order.folder,
        num_parts,
        overview,
        looks,
        classes=classes,
        findings=findings,
        reads=ReadsWriter(out, listing.tasks, order.tags(), order.key),
        origin=origin,
        image_size=size,
        bit_depth=settings.bit_depth,
    )
    notes = [*_notes(listing, overview, settings), *looks.notes()]
    for note in notes:
        logger.warning("%s", note)
    info = CohortInfo(
        name=manifest.name,
        classes=classes,
        image_size=(size, size),
        bit_depth=settings.bit_depth,
        has_patient_ids=listing.has_patient_ids,
        num_scans=int(overview.kept.sum()),
        num_patients=written.num_patients,
        counts=written.counts,
        patients=written.patients,
        pixel_mean=written.pixel_mean,
        pixel_std=written.pixel_std,
        license=manifest.license,
        citation=manifest.citation,
        findings=findings.names,
        notes=tuple(notes),
    )
    write_json(out / "cohort.json", info.model_dump(mode="json"), private=True)
    write_quality_page(out, info, written, overview, looks)
    _log_summary(info, written)
    rejected = sum(written.rejected.values())
    counts = {"scans": info.num_scans, "patients": info.num_patients, "rejected": rejected}
    return ["cohort.json", *written.files], counts


def _classes(manifest: Manifest, listing: Listing) -> tuple[str, ...]:
    if manifest.classes is not None:
        return manifest.classes
    found = tuple(sorted({task.label for task in listing.tasks if task.label}))
    for name in found:
        if not re.match(NAME_PATTERN, name):
            raise DataError(
                "not usable as a class name (letters, digits, dot, hyphen, underscore)",
                field="label",
                value=name,
                remedy="Map it to a name with the manifest's label.values.",
            )
    if not found:
        raise DataError("no scan has a label", field="label", remedy="Correct the manifest's label rule.")
    return found


def _claims(listing: Listing, origin: npt.NDArray[np.int64]) -> dict[int, str]:
    """Return row -> pseudonym of the patient that a table merely claims."""
    pseudonyms = Pseudonyms(load_key())
    claimed = {number: task.claimed for number, task in enumerate(listing.tasks) if task.claimed}
    if not claimed:
        return {}
    return {
        row: pseudonyms.patient(claimed[number])
        for row, number in enumerate(origin.tolist())
        if number in claimed
    }


def _kept_test(manifest: Manifest, published: dict[str, list[str]], count: int) -> npt.NDArray[np.bool_]:
    if manifest.split.keep_test is None:
        return np.zeros(count, dtype=bool)
    parts = published[manifest.split.keep_test]
    kept = np.array([part == manifest.split.test_part for part in parts], dtype=bool)
    if not kept.any():
        raise DataError(
            f"no scan stands in part {manifest.split.test_part!r} of it",
            field="split.keep_test",
            value=manifest.split.keep_test,
            remedy="Correct split.test_part in the manifest.",
        )
    return kept


def task_of_rows(folder: Path, num_parts: int, length: int, limit: float) -> npt.NDArray[np.int64]:
    """Return the number of the task that each row came from, and stop where too many were refused.

    Args:
        folder: where the parts lie.
        num_parts: their number.
        length: scans a chunk.
        limit: largest share of refused rows.

    Raises:
        DataError: more rows than that, or all, were refused.
    """
    origin: list[int] = []
    reasons: dict[str, int] = {}
    for number in range(num_parts):
        for row in read_rows(folder, number):
            origin.append(number * length + row.scan)
            if row.reason:
                reasons[row.reason] = reasons.get(row.reason, 0) + 1
    refused, total = sum(reasons.values()), len(origin)
    if refused == total or refused > limit * total:
        ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:3]
        told = ", ".join(f"{reason} ({count})" for reason, count in ranked)
        raise DataError(
            f"{refused} of {total} scans cannot be used: {told}",
            field="sources",
            remedy="Correct the manifest or the files, or raise --set ingest.max_reject_share.",
        )
    return np.array(origin, dtype=np.int64)


def _notes(listing: Listing, overview: Overview, settings: IngestSettings) -> list[str]:
    notes = list(listing.notes)
    if not listing.has_patient_ids:
        notes.insert(0, "no patient ids: each image counts as its own patient, so a patient may cross splits")
    notes += overview.notes()
    if settings.holdout_share + settings.audit_share == 0:
        notes.append("no privacy holdout: the gate cannot measure anything")
    return notes


def _log_summary(info: CohortInfo, written: Written) -> None:
    for split, counts in info.counts.items():
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        logger.info("%s: %s; %d patients", split, told, info.patients[split])
    for reason, count in written.rejected.items():
        logger.warning("%d scans refused: %s", count, reason)
