"""Plan and cost estimate of a release, from the measured time to write and sync one small file."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from pipeline.artifacts.candidates import Candidates
from pipeline.artifacts.privacy_report import read_privacy_report
from pipeline.cost.estimate import (
    MEBIBYTE,
    TABLE_BYTES_A_ROW,
    Cost,
    Foreseen,
    Given,
    StagePlan,
    Workload,
    known_digest,
)
from pipeline.records import AuditRef, CandidatesRef, ReleaseRef
from pipeline.release.settings import ReleaseSettings
from pipeline.stage import REFERENCE_NAME, StageInputs, folder_of
from pipeline.storage import write_text

_TIMED_FILES = 5


def plan_release(
    candidates: Given[CandidatesRef], audit: Given[AuditRef], settings: ReleaseSettings, *, seed: int
) -> StagePlan[ReleaseRef]:
    """Return the plan of `run_release` with these arguments.

    A release is public, and its checksums cover all of it. Its inputs are therefore recorded in its
    reference.

    Raises:
        DataError: candidates or audit are not finished outputs.
    """
    inputs = {"candidates": known_digest(CandidatesRef, candidates), "audit": known_digest(AuditRef, audit)}

    def foresee() -> Foreseen:
        if isinstance(audit, Foreseen):
            return audit
        assert not isinstance(candidates, Foreseen), "an audit of what is not there yet"
        pixels = Candidates(folder_of(candidates)).shards
        report = read_privacy_report(folder_of(audit))
        accepted = sum(part.accepted for part in report.classes.values())
        height, width = pixels.image_shape[1:]
        work = Workload(0, 0, 0, 0, 0, len(report.classes), (height, width), pixels.dtype.itemsize)
        return Foreseen(work, num_images=accepted, num_asked=accepted)

    return StagePlan(
        StageInputs(ReleaseRef, inputs, settings, seed, recorded_in=REFERENCE_NAME),
        estimate=lambda: estimate_release(foresee()),
        foresee=foresee,
    )


def estimate_release(released: Foreseen) -> Cost:
    """Estimate the cost of releasing the accepted images."""
    count = released.num_images
    disk = count * (released.work.image_bytes + 4 * TABLE_BYTES_A_ROW) + MEBIBYTE // 2
    return Cost.here(2.0 + count * _synced_file_seconds(), disk_bytes=disk)


def _synced_file_seconds() -> float:
    """Measure the seconds that writing one small file and syncing it to disk takes on this machine."""
    with tempfile.TemporaryDirectory(prefix="phosphor-estimate-") as name:
        started = time.perf_counter()
        for number in range(_TIMED_FILES):
            write_text(Path(name) / str(number), "x" * 1000)
        return (time.perf_counter() - started) / _TIMED_FILES
