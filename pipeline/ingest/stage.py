"""The ingest stage: lists the scans, reads them in parallel, splits them by patient, writes the cohort."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from pipeline.artifacts.cohort import CohortInfo, PatientIds
from pipeline.artifacts.pixels import stored_dtype
from pipeline.identity import Pseudonyms, load_key
from pipeline.ingest.duplicates.image_checks import compare_images
from pipeline.ingest.plan import ingest_inputs
from pipeline.ingest.previous_cohort import Earlier, earlier_of
from pipeline.ingest.reading.facts import gather
from pipeline.ingest.reading.parts import FOLDER
from pipeline.ingest.reading.pool import chunk_length, run_chunks
from pipeline.ingest.reading.worker import WorkOrder, close_earlier
from pipeline.ingest.settings import IngestSettings
from pipeline.ingest.splitting.findings import PRESENT
from pipeline.ingest.splitting.patients import largest_share, listed_ids, refuse_look_alikes
from pipeline.ingest.splitting.rows import ScanRows, class_names, describe_rows, task_of_rows
from pipeline.ingest.splitting.survey import Overview, survey
from pipeline.ingest.writing.assemble import Written, write_cohort
from pipeline.manifest import Manifest
from pipeline.records import CohortRef
from pipeline.sources.folders import Listing
from pipeline.sources.listing import list_scans
from pipeline.sources.stores import drop_unpacked
from pipeline.sources.tables.patient_ids import STAND_IN, STAND_IN_REMEDY
from pipeline.sources.unread import unread_notes
from pipeline.storage import write_json

logger = logging.getLogger(__name__)


def run_ingest(manifest: Manifest, out: Path, settings: IngestSettings, *, force: bool = False) -> CohortRef:
    """Turn the scans of a manifest into a cohort directory; reuse or resume an earlier one of equal inputs.

    Args:
        manifest: from `pipeline.manifest.load_manifest`.
        out: the cohort directory (made with mode 0700).
        settings: image size, split shares, limits.
        force: replace a cohort of other inputs.

    Raises:
        ManifestError: a table lacks a column, or a path's variable is not set.
        DataError: a folder or table is unreadable, too many scans are refused, a class is too small.
        OutputExistsError: `out` holds something else.
    """
    from pipeline.ingest.writing.private_map import check_map_path, write_private_map

    check_map_path(settings.private_map, out)
    listing = list_scans(manifest, phantom_patients=settings.phantom_patients, image_size=settings.image_size)
    class_names(manifest, listing)  # refuses a name before hours of reading
    if settings.strict:
        # What the listing knows; headers tell the rest.
        refuse_look_alikes(listed_ids(listing.tasks))
    unread = unread_notes(listing.unread, Pseudonyms(load_key()))
    for note in unread:
        logger.warning("%s", note)
    wanted = ingest_inputs(manifest, settings, listing, load_key())
    wanted, earlier = earlier_of(out, wanted, settings, force=force)
    with wanted.open(out, force=force) as stage:
        if stage.finished is not None:
            logger.info("cohort: reused, nothing has changed")
            reference = stage.finished
        else:
            files, counts = _make(manifest, listing, stage.path, settings, earlier, unread=unread)
            reference = stage.finish(files, counts)
        shutil.rmtree(stage.path / FOLDER, ignore_errors=True)
    if settings.private_map is not None:
        write_private_map(settings.private_map, listing.tasks, listing.unread, stage.path)
    return reference


def _make(
    manifest: Manifest,
    listing: Listing,
    out: Path,
    settings: IngestSettings,
    earlier: Earlier | None,
    *,
    unread: list[str],
) -> tuple[list[str], dict[str, int]]:
    from pipeline.ingest.writing.report import write_quality_page

    order = _order(manifest, settings, out, earlier)
    num_parts, rows = _read(manifest, listing, order, settings)
    if settings.private_map is None:
        # A million tasks would lie in memory to the end.
        listing.tasks.clear()
    known = earlier.known_sides(manifest.name, settings) if earlier is not None else {}
    facts = gather(order.folder, num_parts, len(rows.labels), known, order.seal())
    looks = compare_images(
        facts,
        order.folder,
        rows.labels,
        len(rows.classes),
        settings,
        parts=next(iter(rows.published.values()), [""] * len(rows.labels)),
        image_size=order.image_size,
        dtype=stored_dtype(order.bit_depth),
    )
    overview = survey(
        facts,
        labels=rows.labels,
        published=rows.published,
        classes=rows.classes,
        settings=settings,
        kept_test=rows.kept_test,
        claims=rows.claims,
        keeps_test=manifest.split.keep_test is not None,
        findings=rows.findings.states == PRESENT,
        alike=looks.alike if looks.near is not None else None,
        join_alike=settings.near_duplicates == "join",
    )
    written = write_cohort(
        out,
        order.folder,
        num_parts,
        overview=overview,
        looks=looks,
        rows=rows,
        image_size=order.image_size,
        bit_depth=order.bit_depth,
    )
    notes = [*_notes(listing, overview, settings), *looks.notes()]
    if overview.num_known < len(known):
        notes.append(
            f"{len(known) - overview.num_known} of {len(known)} patients of the earlier cohort are not among "
            "these: they have no usable scan here, or their ids are written otherwise now"
        )
    if STAND_IN in written.rejected:
        notes.append(f"{written.rejected[STAND_IN]} scans are refused: {STAND_IN}; {STAND_IN_REMEDY}")
    info = _info(manifest, listing, settings, rows=rows, written=written, ids=overview.ids, notes=notes)
    if earlier is not None:
        info = earlier.described_again(info, out, written.files)
    write_json(out / "cohort.json", info.model_dump(mode="json"), private=True)
    write_quality_page(out, info, written, overview, looks, unread=unread)
    _log_summary(info, written)
    rejected = sum(written.rejected.values())
    counts = {"scans": info.num_scans, "patients": info.num_patients, "rejected": rejected}
    if listing.unread:
        counts["not_read"] = len(listing.unread)
    return ["cohort.json", *written.files], counts


def _order(manifest: Manifest, settings: IngestSettings, out: Path, earlier: Earlier | None) -> WorkOrder:
    expected = manifest.expect
    return WorkOrder(
        folder=out / FOLDER,
        key=load_key(),
        dataset=manifest.name,
        split_seed=settings.split_seed,
        image_size=_stored_size(manifest, settings),
        bit_depth=settings.bit_depth,
        fit=manifest.geometry.fit,
        robust=settings.intensity == "robust",
        percentiles=settings.percentiles,
        burned_in_text=settings.burned_in_text,
        modalities=expected.modalities if expected is not None else (),
        views=expected.views if expected is not None else (),
        refuse_unexpected=settings.unexpected == "quarantine",
        earlier=earlier.path if earlier is not None else None,
    )


def _stored_size(manifest: Manifest, settings: IngestSettings) -> int:
    return min(settings.image_size, manifest.geometry.native_size or settings.image_size)


def _read(
    manifest: Manifest, listing: Listing, order: WorkOrder, settings: IngestSettings
) -> tuple[int, ScanRows]:
    """Read all scans into parts; return the number of parts and what the listing says of their rows."""
    length = chunk_length(len(listing.tasks), settings.chunk_scans)
    num_parts = run_chunks(
        order,
        listing.tasks,
        length=length,
        workers=settings.workers,
        scan_seconds=settings.scan_seconds,
    )
    close_earlier()
    drop_unpacked({task.rule for task in listing.tasks})
    origin = task_of_rows(order.folder, num_parts, length, settings.max_reject_share)
    return num_parts, describe_rows(manifest, listing, origin, Pseudonyms(order.key), order.tags())


def _info(
    manifest: Manifest,
    listing: Listing,
    settings: IngestSettings,
    *,
    rows: ScanRows,
    written: Written,
    ids: PatientIds,
    notes: list[str],
) -> CohortInfo:
    size = _stored_size(manifest, settings)
    return CohortInfo(
        name=manifest.name,
        classes=rows.classes,
        image_size=(size, size),
        bit_depth=settings.bit_depth,
        has_patient_ids=listing.has_patient_ids,
        num_scans=sum(sum(counts.values()) for counts in written.counts.values()),
        num_patients=written.num_patients,
        counts=written.counts,
        patients=written.patients,
        pixel_mean=written.pixel_mean,
        pixel_std=written.pixel_std,
        license=manifest.license,
        citation=manifest.citation,
        findings=rows.findings.names,
        attributes=written.attributes,
        patient_ids=ids,
        notes=tuple(notes),
    )


def _notes(listing: Listing, overview: Overview, settings: IngestSettings) -> list[str]:
    notes = list(listing.notes)
    if not listing.has_patient_ids:
        notes.insert(0, "no patient ids: each image counts as its own patient, so a patient may cross splits")
    notes += overview.notes()
    if settings.holdout_share + settings.audit_share == 0:
        notes.append("no privacy holdout: the gate cannot measure anything")
    return notes


def _log_summary(info: CohortInfo, written: Written) -> None:
    for note in info.notes:
        logger.warning("%s", note)
    for split, counts in info.counts.items():
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        logger.info("%s: %s; %d patients", split, told, info.patients[split])
    if info.patient_ids is not None:
        logger.info("the largest patient has %s", largest_share(info.patient_ids))
    for reason, count in written.rejected.items():
        logger.warning("%d scans refused: %s", count, reason)
