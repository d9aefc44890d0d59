"""Plans and cost estimates of stages, with the same records for every stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from models.latent.autoencoder_spec import AutoencoderSpec
from models.network.spec import NetworkSpec
from pipeline.artifacts.checkpoint import read_checkpoint_info
from pipeline.artifacts.cohort import Cohort
from pipeline.cost.memory import resident_bytes
from pipeline.cost.network import PlannedNetwork
from pipeline.records import CheckpointRef, CohortRef, Reference
from pipeline.stage import StageInputs, folder_of, reference_of

ReferenceT = TypeVar("ReferenceT", bound=Reference)

MEBIBYTE = 2**20
PAGE_BYTES = 3 * MEBIBYTE // 2
"""Disk space of a run's report, an HTML page with figures; the pages of single stages need less."""

TABLE_BYTES_A_ROW = 200


@dataclass(frozen=True)
class Cost:
    """Expected cost of a stage.

    Attributes:
        seconds: wall time.
        memory_bytes: peak memory of all its processes together, including memory on the accelerator.
        disk_bytes: size of its output.
        device_bytes: part of the memory on the accelerator.
    """

    seconds: float
    memory_bytes: int
    disk_bytes: int
    device_bytes: int = 0

    @classmethod
    def here(cls, seconds: float, *, disk_bytes: int, more_bytes: int = 0, device_bytes: int = 0) -> Cost:
        """Return the estimate of a stage whose inner loop this process has just measured.

        Args:
            seconds: wall time.
            disk_bytes: size of its output.
            more_bytes: memory of its processes in addition to that of this process.
            device_bytes: memory on the accelerator.
        """
        return cls(seconds, resident_bytes() + more_bytes + device_bytes, disk_bytes, device_bytes)


NOTHING = Cost(0.0, 0, 0)
"""Cost of an output that is reused."""


@dataclass(frozen=True)
class Workload:
    """Size of a cohort, known or expected.

    Attributes:
        num_train: number of scans in train.
        num_val: number of scans in val.
        num_test: number of scans in test.
        num_holdout: number of scans in the holdout.
        num_audited: number of scans of the patients used in the membership inference.
        num_classes: number of classes.
        image_size: (height, width) in pixels.
        bytes_a_pixel: 1 or 2.
    """

    num_train: int
    num_val: int
    num_test: int
    num_holdout: int
    num_audited: int
    num_classes: int
    image_size: tuple[int, int]
    bytes_a_pixel: int

    @property
    def image_bytes(self) -> int:
        """Bytes of one stored image."""
        return self.image_size[0] * self.image_size[1] * self.bytes_a_pixel


@dataclass(frozen=True)
class Foreseen:
    """Known properties of an output before it exists.

    Attributes:
        work: size of the cohort, or of the cohort behind its images.
        network: denoiser of a checkpoint.
        num_images: number of images of a candidate set or a release.
        num_asked: number of these images requested from the gate.
    """

    work: Workload
    network: PlannedNetwork | None = None
    num_images: int = 0
    num_asked: int = 0


Given: TypeAlias = Path | ReferenceT | Foreseen
"""Input of a stage: a finished output by its path or reference, or an output that does not exist yet."""


@dataclass(frozen=True)
class StagePlan(Generic[ReferenceT]):
    """Plan of a stage. Nothing is measured before `estimate` is called.

    Attributes:
        wanted: inputs and settings that determine the output.
        estimate: measures the cost of the output.
        foresee: returns the known properties of the output.
        changes: describes the changes of its sources since the existing output was made.
        note: says what the estimate leaves out or what is to be expected.
    """

    wanted: StageInputs[ReferenceT]
    estimate: Callable[[], Cost]
    foresee: Callable[[], Foreseen]
    changes: Callable[[], str] = lambda: ""
    note: Callable[[], str] = lambda: ""


def known_digest(kind: type[ReferenceT], given: Given[ReferenceT]) -> str | None:
    """Return the digest of an input, or None if it does not exist yet."""
    return None if isinstance(given, Foreseen) else reference_of(kind, given).digest


def workload_of(cohort: Given[CohortRef]) -> Workload:
    """Return the size of a cohort."""
    if isinstance(cohort, Foreseen):
        return cohort.work
    opened = Cohort(folder_of(cohort))
    info = opened.info
    counts = {split: sum(classes.values()) for split, classes in info.counts.items()}
    return Workload(
        num_train=counts.get("train", 0),
        num_val=counts.get("val", 0),
        num_test=counts.get("test", 0),
        num_holdout=counts.get("holdout", 0),
        num_audited=int((opened.records()["audit"] != "").sum()),
        num_classes=len(info.classes),
        image_size=info.image_size,
        bytes_a_pixel=info.bit_depth // 8,
    )


def image_size_of(cohort: Given[CohortRef]) -> tuple[int, int]:
    """Return (height, width) of a cohort's images, without a library for tables."""
    return (
        cohort.work.image_size if isinstance(cohort, Foreseen) else Cohort(folder_of(cohort)).info.image_size
    )


def outlook_of(checkpoint: Given[CheckpointRef]) -> Foreseen:
    """Return the network of a checkpoint, with the number of classes and the size of its images."""
    if isinstance(checkpoint, Foreseen):
        return checkpoint
    info = read_checkpoint_info(folder_of(checkpoint))
    autoencoder = None if info.autoencoder is None else AutoencoderSpec.from_dict(info.autoencoder)
    spec = NetworkSpec.from_dict(info.network)
    return Foreseen(
        Workload(0, 0, 0, 0, 0, len(info.classes), info.image_size, info.bit_depth // 8),
        PlannedNetwork(spec, info.precision, info.sigma_data, autoencoder, info.parametrisation),
    )


def estimate_report() -> Cost:
    """Estimate the cost of the run's report, with its figures and one HTML page."""
    return Cost.here(5.0, disk_bytes=PAGE_BYTES)
