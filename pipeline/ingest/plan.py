"""Plans an ingest: lists its sources and estimates its cost from a few timed scans."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.cost.estimate import (
    PAGE_BYTES,
    TABLE_BYTES_A_ROW,
    Cost,
    Foreseen,
    StagePlan,
    Workload,
)
from pipeline.cost.memory import resident_bytes
from pipeline.distributed.cpu_threads import usable_cores
from pipeline.errors import DataError, ScanRefusedError
from pipeline.identity import Pseudonyms, existing_key
from pipeline.ingest.previous_cohort import continuing, named_earlier
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import Manifest
from pipeline.manifest.kinds.medmnist import MedmnistSource
from pipeline.manifest.kinds.phantom import PhantomSource
from pipeline.phantom.settings import PhantomSettings
from pipeline.records import CohortRef
from pipeline.sources.base import ReadRule, ScanTask
from pipeline.sources.download import downloaded_path
from pipeline.sources.folders import Listing, merge
from pipeline.sources.listing import inputs_digest, list_source
from pipeline.sources.phantom import phantom_folder, phantom_settings
from pipeline.stage import INPUTS_NAME, REFERENCE_NAME, StageInputs
from pipeline.storage import read_json

_TIMED_SCANS = 6
_PHANTOM_PATIENTS = 3


@dataclass(frozen=True)
class _Source:
    """The scans of one source.

    Attributes:
        listing: scans of the source; only a fingerprint, or nothing, if they are not on this machine.
        phantom: settings of a phantom, which is neither made nor listed.
        not_here: name of a source that must be fetched first, else empty.
    """

    listing: Listing
    phantom: PhantomSettings | None = None
    not_here: str = ""

    @functools.cached_property
    def usable(self) -> list[ScanTask]:
        """The scans that the listing does not refuse."""
        return [task for task in self.listing.tasks if not task.refusal]

    @property
    def num_scans(self) -> int:
        """Number of usable scans."""
        if self.phantom is None:
            return len(self.usable)
        return round(self.phantom.num_patients * sum(self.phantom.images_per_patient) / 2)

    @property
    def classes(self) -> set[str]:
        """Classes of the usable scans."""
        if self.phantom is None:
            return {task.label for task in self.usable}
        return {name for name, weight in self.phantom.class_weights.items() if weight > 0}

    def num_test(self, manifest: Manifest) -> int:
        """Return the number of usable scans in the published test part that the manifest keeps."""
        keep = manifest.split.keep_test
        if keep not in self.listing.published:
            return 0
        place = self.listing.published.index(keep)
        return sum(task.published[place] == manifest.split.test_part for task in self.usable)


def ingest_inputs(
    manifest: Manifest, settings: IngestSettings, listing: Listing, key: bytes | None
) -> StageInputs[CohortRef]:
    """Return the inputs that determine a cohort, except an earlier cohort that it continues.

    Args:
        manifest: the manifest.
        settings: settings of the ingest.
        listing: scans of the sources; only the fingerprint counts.
        key: the pseudonym key, None if there is none yet.
    """
    # Another key gives other pseudonyms. The digest reveals nothing about a key of 256 random bits.
    digest = None if key is None else hashlib.sha256(b"phosphor key\0" + key).hexdigest()
    inputs = {**inputs_digest(manifest, listing), "key": digest}
    return StageInputs(CohortRef, inputs, settings.content_settings())


def plan_ingest(manifest: Manifest, out: Path, settings: IngestSettings) -> StagePlan[CohortRef]:
    """Return what `run_ingest` would do with these arguments. Nothing is fetched or kept.

    The settings of a phantom identify it, so it need not be made. Sources that must be fetched first cannot
    be compared with those of an existing cohort; they count as unchanged.

    Raises:
        ManifestError, DataError: as for `list_scans`, and as for `ingest.previous`.
    """
    sources = [_inspect(manifest, number, settings) for number in range(len(manifest.sources))]
    key = existing_key()
    listing = merge(Listing(fingerprint=source.listing.fingerprint) for source in sources)
    wanted = ingest_inputs(manifest, settings, listing, key)
    if any(source.not_here for source in sources):
        wanted = wanted.reading(scans=_recorded_scans(out))
    earlier = named_earlier(out, settings, str(wanted.inputs["key"]))
    wanted = continuing(out, wanted) if earlier is None else wanted.reading(previous=earlier.digest)
    return StagePlan(
        wanted,
        estimate=lambda: estimate_ingest(manifest, settings, sources),
        foresee=lambda: Foreseen(_workload(manifest, settings, sources)),
        changes=lambda: _changes(sources, out, wanted, key),
    )


def estimate_ingest(manifest: Manifest, settings: IngestSettings, sources: list[_Source]) -> Cost:
    """Estimate the ingest: making phantoms, and reading all scans in parallel on the cores.

    Raises:
        DataError: a source must be fetched first, or no usable scan is listed.
    """
    work, count = _workload(manifest, settings, sources), sum(source.num_scans for source in sources)
    seconds, cache_bytes, reading, samples = 1.0, 0, 0.0, list[ScanTask]()
    with contextlib.ExitStack() as stack:
        for source in sources:
            tasks = source.usable
            if source.phantom is not None:
                tasks, made, size = stack.enter_context(_phantom_scans(source.phantom))
                if not phantom_folder(source.phantom).is_dir():
                    seconds += source.num_scans * made
                    cache_bytes += source.num_scans * size
            timed = _sample(tasks)
            reading += source.num_scans * scan_seconds(timed, settings.image_size)
            samples += timed
        started, more = _workers(samples, reading, settings)
    workers = settings.workers or usable_cores()
    return Cost.here(
        seconds + (reading if not more else started + reading / workers),
        disk_bytes=count * (work.image_bytes + TABLE_BYTES_A_ROW) + PAGE_BYTES * 2 // 3 + cache_bytes,
        more_bytes=more,
    )


def scan_seconds(tasks: list[ScanTask], image_size: int) -> float:
    """Return the median time in seconds to read, hash and resize one of the scans; 0 without scans."""
    from pipeline.ingest.reading.geometry import black_and_white, to_square
    from pipeline.sources.reading import read_scan

    times: list[float] = []
    for task in tasks:
        started = time.perf_counter()
        with contextlib.suppress(ScanRefusedError):
            scan = read_scan(task)
            limits = scan.value_range or black_and_white(scan.pixels, (0.5, 99.5))
            to_square(
                scan.pixels,
                image_size,
                fit="pad",
                pixel_aspect=scan.pixel_aspect,
                black_white=limits,
                bit_depth=8,
            )
        times.append(time.perf_counter() - started)
    # The first scan includes imports, and single files may be slow; the median ignores both.
    return float(np.median(times)) if times else 0.0


def _inspect(manifest: Manifest, number: int, settings: IngestSettings) -> _Source:
    """List a source if it is on this machine; otherwise return what is known about it."""
    source = manifest.sources[number]
    if isinstance(source, PhantomSource):
        phantom = phantom_settings(source, settings.phantom_patients)
        return _Source(Listing(fingerprint=phantom.digest()), phantom)
    if isinstance(source, MedmnistSource):
        path, download = source.chosen(_image_size(manifest, settings))
        here = path is not None and manifest.present(path) is not None
        fetched = download is not None and downloaded_path(download.md5, f"{manifest.name}.npz").is_file()
        if download is not None and not here and not fetched:
            return _Source(Listing(), not_here=f"sources.{number} ({source.kind})")
    elif source.not_here(manifest.present):
        return _Source(Listing(), not_here=f"sources.{number} ({source.kind})")
    return _Source(list_source(manifest, number, image_size=settings.image_size))


def _image_size(manifest: Manifest, settings: IngestSettings) -> int:
    return min(settings.image_size, manifest.geometry.native_size or settings.image_size)


def _workload(manifest: Manifest, settings: IngestSettings, sources: list[_Source]) -> Workload:
    """Return the size of the cohort if no scan is refused when it is read."""
    for source in sources:
        if source.not_here:
            raise DataError(
                "the data is not on this machine yet, so its size is unknown",
                field=source.not_here,
                remedy="Name a local path, or run ingest once, which downloads it.",
            )
    count = sum(source.num_scans for source in sources)
    if not count:
        raise DataError("no usable scan is listed", field="sources", remedy="Check paths and labels.")
    kept = manifest.split.keep_test is not None
    published = sum(source.num_test(manifest) for source in sources)
    test = published if kept else round(settings.test_share * count)
    pool = count - test
    held = round((settings.holdout_share + settings.audit_share / 2) * pool)
    val = round(settings.val_share * pool)
    size = _image_size(manifest, settings)
    return Workload(
        num_train=pool - held - val,
        num_val=val,
        num_test=test,
        num_holdout=held,
        num_audited=round(settings.audit_share * pool),
        num_classes=len(manifest.classes or set[str]().union(*(source.classes for source in sources))),
        image_size=(size, size),
        bytes_a_pixel=settings.bit_depth // 8,
    )


def _sample(tasks: list[ScanTask]) -> list[ScanTask]:
    """Return a few tasks, evenly spaced over the list."""
    return [tasks[i] for i in np.linspace(0, len(tasks) - 1, min(_TIMED_SCANS, len(tasks))).astype(int)]


def _workers(tasks: list[ScanTask], seconds: float, settings: IngestSettings) -> tuple[float, int]:
    """Return the time in seconds to start worker processes, and their memory in bytes; zeros without workers.

    Args:
        tasks: a few scans, which one worker reads to measure both.
        seconds: estimated time to read all scans in this process.
        settings: settings of the ingest.
    """
    from pipeline.ingest.reading.pool import POOL_PAYS_SECONDS
    from pipeline.ingest.reading.processes import process_pool

    workers = settings.workers or usable_cores()
    if workers == 1 or seconds <= POOL_PAYS_SECONDS:
        return 0.0, 0
    began = time.perf_counter()
    with process_pool(1) as pool:
        read, memory = pool.submit(_read_in_process, tasks, settings.image_size).result()
    return time.perf_counter() - began - read, workers * memory


def _read_in_process(tasks: list[ScanTask], image_size: int) -> tuple[float, int]:
    """Read scans in a worker process; return the time in seconds and the worker's memory in bytes."""
    began = time.perf_counter()
    scan_seconds(tasks, image_size)
    return time.perf_counter() - began, resident_bytes()


@contextlib.contextmanager
def _phantom_scans(settings: PhantomSettings) -> Iterator[tuple[list[ScanTask], float, int]]:
    """Make scans of a few phantom patients for the block; yield tasks, and seconds and bytes per image."""
    from pipeline.phantom import write_phantom_cohort

    few = settings.model_copy(update={"num_patients": _PHANTOM_PATIENTS, "nifti_share": 0.0})
    with tempfile.TemporaryDirectory(prefix="phosphor-estimate-") as name:
        folder = Path(name)
        began = time.perf_counter()
        index = write_phantom_cohort(folder, few)
        made = (time.perf_counter() - began) / index.num_images
        files = [path for path in sorted((folder / "dicom").rglob("*")) if path.is_file()]
        rule = ReadRule(kind="dicom", root=str(folder), patient_tag="PatientID")
        tasks = [ScanTask(rule=rule, name=path.relative_to(folder).as_posix(), label="x") for path in files]
        yield tasks, made, sum(path.stat().st_size for path in files) // len(files)


def _recorded_scans(out: Path) -> str | None:
    """Return the digest of the sources from which the cohort at `out` was made."""
    path = out / INPUTS_NAME
    body = read_json(path, role="cohort") if path.is_file() else {}
    return body.get("inputs", {}).get("scans") if isinstance(body, dict) else None


def _changes(sources: list[_Source], out: Path, wanted: StageInputs[CohortRef], key: bytes | None) -> str:
    """Return in words how the sources changed since the cohort at `out` was made; empty if they did not."""
    from pipeline.ingest.writing.private_map import frames_of, ids_of_cohort, number_of

    recorded = _recorded_scans(out)
    if key is None or recorded in (None, wanted.inputs["scans"]) or not (out / REFERENCE_NAME).is_file():
        return ""
    pseudonyms, known, found, new = Pseudonyms(key), ids_of_cohort(out), set[int](), 0
    for source in sources:
        for task in source.listing.tasks:
            names = (task.scan_name + frame for frame in frames_of(task, pseudonyms, known))
            ids = {number_of(pseudonyms.scan(name)) for name in names} & known
            found |= ids
            new += not ids
    gone = 0 if any(source.phantom for source in sources) else len(known - found)
    counted = {"new": new, "missing": gone}
    words = [f"{count} {what} file{'s' * (count != 1)}" for what, count in counted.items() if count]
    return " and ".join(words) or "files or tables have changed"
