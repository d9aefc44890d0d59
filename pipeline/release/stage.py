"""The release stage: checks everything, writes to a temporary folder, verifies it, and publishes it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from pipeline.artifacts.privacy_report import REPORT_NAME
from pipeline.errors import DataError, OutputExistsError, TamperedError
from pipeline.records import AuditRef, CandidatesRef, ReleaseRef
from pipeline.release.admission import Admission, admit
from pipeline.release.card import write_card
from pipeline.release.croissant import croissant
from pipeline.release.formats import chosen
from pipeline.release.layout import (
    CARD_NAME,
    COLUMNS,
    CROISSANT_NAME,
    CSV_NAME,
    FORMAT_VERSION,
    PROVENANCE_NAME,
    SUMS_NAME,
    TABLES,
)
from pipeline.release.made_before import (
    REMEDY,
    log_present,
    log_release,
    uncounted_releases,
    uncounted_words,
)
from pipeline.release.plan import plan_release
from pipeline.release.preview import write_preview
from pipeline.release.provenance import describe, release_note, withhold_paths
from pipeline.release.publish import (
    estimate_bytes,
    fresh_partial,
    put_in_place,
    release_lock,
    require_place,
    require_space,
    sync_tree,
)
from pipeline.release.settings import ReleaseSettings, check_formats
from pipeline.release.tables import table_rows, write_tables
from pipeline.release.verify import count_rows, list_files, sums_text, verify_release
from pipeline.residual import problems, scan_for_values
from pipeline.stage import REFERENCE_NAME, load_reference
from pipeline.storage import digest_files, digest_of, write_json, write_text

logger = logging.getLogger(__name__)


def run_release(
    candidates: Path | CandidatesRef,
    audit: Path | AuditRef,
    out: Path,
    settings: ReleaseSettings,
    *,
    seed: int,
    force: bool = False,
    provenance: dict[str, Any] | None = None,
) -> ReleaseRef:
    """Release the accepted candidates of an audit to `out`, completely or not at all.

    Everything is checked before anything is written. The verdict is read from the audit's files alone. The
    dataset is written to a private folder beside `out`, synced, verified as by `phosphor verify`, and
    renamed.

    Args:
        candidates: finished candidates directory.
        audit: finished audit of these candidates.
        out: directory of the release.
        settings: policy and formats.
        seed: the run seed (recorded; it draws the images of the preview).
        force: replace a release of other inputs at `out`, once the new one is verified. The replaced release
            stays in the log beside `out`; if the audit did not include it, the new release says so.
        provenance: facts about the run for `provenance.json`. Its key `source` may hold `name`, `license` and
            `citation` of the real scans for the card. Paths in it are withheld.

    Returns:
        The reference; `digest` is the content digest over images and tables.

    Raises:
        UsageError: unknown format, or `out` holds something else.
        TamperedError: candidates or audit were changed, or do not belong together.
        GateRefusedError: the policy does not allow a release with this verdict.
        StorageError: the disk is too small or full; an earlier release is unchanged.
    """
    check_formats(settings)
    admission = admit(candidates, audit, settings.policy)
    out = out.absolute()
    inputs_digest = plan_release(
        admission.candidates.reference, admission.audit, settings, seed=seed
    ).wanted.digest
    earlier = _existing(out, inputs_digest, force)
    if earlier is not None:
        logger.info("release: reusing the verified release of the same inputs")
        return earlier
    height, width = admission.image_size
    images = len(admission.table) * len(chosen(settings.formats))
    require_space(out, estimate_bytes(images, (height, width), admission.bit_depth))
    with release_lock(out):
        require_place(out)
        log_present(out)
        partial = fresh_partial(out, inputs_digest)
        try:
            reference, uncounted = _write(
                partial, admission, settings, inputs_digest, seed=seed, run=provenance or {},
                before=uncounted_releases(out, admission.report),
            )  # fmt: skip
            _refuse_records(partial, admission)
            sync_tree(partial)
            verify_release(partial)
            put_in_place(partial, out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        log_release(out, reference.digest, admission.report.cohort_digest)
    if uncounted:
        logger.warning("release: %s. %s", uncounted_words(uncounted), REMEDY)
    logger.info("release: %d images, gate verdict %s", len(admission.table), reference.verdict.value)
    return load_reference(ReleaseRef, out)


def _existing(out: Path, inputs_digest: str, force: bool) -> ReleaseRef | None:
    """Return an intact release of the same inputs at `out`; refuse other contents, unless forced."""
    if out.is_symlink() or out.is_file():
        raise OutputExistsError(
            "is a link" if out.is_symlink() else "is a file",
            field="--out",
            value=str(out),
            remedy="Name the directory that it leads to." if out.is_symlink() else "Name a directory.",
        )
    if not out.is_dir() or not any(out.iterdir()):
        return None
    try:
        present = load_reference(ReleaseRef, out)
    except TamperedError:
        if force:
            return None
        raise
    except DataError as error:
        raise OutputExistsError(
            "holds files that are not a release",
            field="--out",
            value=str(out),
            remedy="Name another directory.",
        ) from error
    if present.inputs_digest == inputs_digest:
        try:
            return verify_release(out)
        except TamperedError:
            if force:
                return None
            raise
    if not force:
        raise OutputExistsError(
            "holds the release of other inputs or settings",
            field="--out",
            value=str(out),
            remedy="Name another directory, or pass --force to replace it. Its images affect the privacy of "
            "the same patients: if it may have been shared, keep a copy, and first audit again with "
            "--set 'audit.earlier_releases=[\"COPY\"]'.",
        )
    return None


def _write(
    folder: Path,
    admission: Admission,
    settings: ReleaseSettings,
    inputs_digest: str,
    *,
    seed: int,
    run: dict[str, Any],
    before: tuple[str, ...],
) -> tuple[ReleaseRef, tuple[str, ...]]:
    """Write every file of the release into `folder`.

    Returns:
        Its reference (with path `folder`), and the digests in `before` that are not of this release.
    """
    rows = table_rows(admission.table, admission.image_size)
    formats = chosen(settings.formats)
    for image_format in formats:
        image_format.write(folder, rows, admission.table["row"].to_numpy(), admission.pixels)
    conditions = admission.conditions
    write_tables(folder, rows, admission.classes, conditions)
    hashes = digest_files(folder, [*(name for found in formats for name in found.names(rows)), *TABLES])
    content = digest_of(hashes)
    uncounted = tuple(digest for digest in before if digest != content)
    gaps = (uncounted_words(uncounted),) if uncounted else ()
    report = admission.report.model_copy(
        update={
            "policy_note": release_note(admission.report.verdict, settings.policy),
            "not_covered": (*gaps, *admission.report.not_covered),
        }
    )
    reference = ReleaseRef(
        path=folder,
        digest=content,
        inputs_digest=inputs_digest,
        counts=count_rows(rows),
        verdict=report.verdict,
    )
    body = describe(
        admission,
        settings,
        seed=seed,
        inputs_digest=inputs_digest,
        content_digest=reference.digest,
        counts=reference.counts,
        uncounted=uncounted,
        run=run,
    )
    named = withhold_paths(run.get("source") or {})
    source = {key: str(named.get(key, "") or "") for key in ("name", "license", "citation")}
    write_json(folder / REPORT_NAME, report.model_dump(mode="json"))
    write_json(folder / PROVENANCE_NAME, body)
    write_card(
        folder,
        report=report,
        policy=settings.policy,
        provenance=body,
        source=source,
        image_size=admission.image_size,
        bit_depth=admission.bit_depth,
        classes=admission.classes,
        conditions=conditions,
        formats=formats,
    )
    description = croissant(
        hashes[CSV_NAME],
        name="synthetic-x-rays",
        description=f"Synthetic X-ray images, not for clinical use. {report.policy_note}",
        date_published=body["created"][:10],
        version=f"{FORMAT_VERSION}.0.0",
        license_text=source["license"] or "unspecified",
        citation=source["citation"] or "unspecified",
        filled_columns=tuple(
            name for name in (*COLUMNS, *conditions.names) if all(row[name] is not None for row in rows)
        ),
        conditions=conditions,
        formats=formats,
    )
    write_json(folder / CROISSANT_NAME, description)
    write_preview(folder, admission, per_class=settings.preview_per_class, seed=seed)
    record = {"stage": ReleaseRef.stage, "files": hashes}
    record |= reference.model_dump(mode="json", exclude={"path"})
    write_json(folder / REFERENCE_NAME, record)
    documents = [name for name in list_files(folder) if name not in hashes]
    write_text(folder / SUMS_NAME, sums_text(hashes | digest_files(folder, documents)))
    return reference, uncounted


def _refuse_records(folder: Path, admission: Admission) -> None:
    """Check with the residual scanner that no document names a real scan or a private folder.

    Documents are the files with text from outside. Images and tables contain only pixels and cells that were
    checked one by one, which `verify` enforces; the other files contain digests.
    """
    values = [*admission.record_ids, str(admission.candidates.folder.resolve()), str(admission.audit.path)]
    documents = (REPORT_NAME, PROVENANCE_NAME, CARD_NAME, CROISSANT_NAME)
    findings = problems(scan_for_values(folder, values, files=documents))
    if findings:
        raise DataError(
            f"{findings[0].file} would name a real scan or a private folder ({findings[0].kind.value})",
            field="release",
            remedy="Nothing was released. Check the audit's report and the provenance that was passed.",
        )
