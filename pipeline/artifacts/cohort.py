"""Cohorts on disk: pixels, labels and the frozen patient-level split, opened without reading all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from pipeline.arrays import Ints
from pipeline.artifacts.pixels import PixelShards, StoredPixels, to_model_range
from pipeline.config import read_model
from pipeline.errors import DataError
from pipeline.records import SPLITS, CohortRef
from pipeline.scan_attributes import SCAN_ATTRIBUTES
from pipeline.stage import folder_of, load_reference

if TYPE_CHECKING:
    import pandas as pd

RECORD_COLUMNS = (
    "sample_id",
    "patient_id",
    "label",
    "split",
    "audit",
    "source_sha256",
    "source_format",
    "original_height",
    "original_width",
    "spacing_mm",
    "qc_flags",
    *SCAN_ATTRIBUTES,
    "findings",
)
"""Columns of `records.parquet`, one row per scan in the order of the pixel rows."""


FINDINGS_NAME = "findings.npy"
"""(N, K) uint8 for scans with several labels: 0 absent, 1 present, 2 uncertain."""

ATTRIBUTES = tuple(SCAN_ATTRIBUTES)
"""Names of the stored attributes of a scan, in the order of their columns."""

ATTRIBUTES_NAME = "attributes.npy"
"""(N, attributes) uint8, if a scan has any: index into the values in `cohort.json`."""

UNKNOWN = 255
"""Code of an attribute that a scan does not have."""

PATIENTS_NAME = "patients.npy"
"""(N,) int32, with attributes or findings: number of each scan's patient."""


class PatientIds(BaseModel):
    """Survey of the patient ids of a cohort or of a listing.

    Attributes:
        scans: number of scans surveyed; a listing does not know the scans whose id is in a header.
        patients: number of patients of these scans.
        largest: number of scans of the patient with the most scans.
        look_alike: number of ids that look like another one, such as 00007 and 7; they count as separate
            patients.
        would_be: number of patients that these ids would be if ids that look alike were one patient.
        on_two_sides: number of those patients whose scans are in more than one part of the split; None
            before the split.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scans: int = Field(0, ge=0)
    patients: int = Field(0, ge=0)
    largest: int = Field(0, ge=0)
    look_alike: int = Field(0, ge=0)
    would_be: int = Field(0, ge=0)
    on_two_sides: int | None = Field(None, ge=0)


class CohortInfo(BaseModel):
    """`cohort.json`: description of the cohort, readable without the pixels.

    Attributes:
        format_version: version of this layout.
        name: name of the manifest.
        classes: label names, sorted; `labels.npy` holds indices into this list.
        image_size: (height, width) in pixels of every stored image.
        bit_depth: 8 or 16.
        has_patient_ids: whether patients are known; if not, each image counts as its own patient.
        num_scans: number of scans over all splits.
        num_patients: number of patients over all splits.
        counts: split -> class -> number of scans.
        patients: split -> number of patients.
        pixel_mean: mean over the train split, in model range [-1, 1].
        pixel_std: standard deviation over the train split, in model range.
        license: license from the manifest.
        citation: citation from the manifest.
        findings: names of the columns of `findings.npy`, sorted; empty if each scan has one label.
        attributes: values of each column of `attributes.npy` in the order of its codes; empty if no scan has
            any.
        patient_ids: survey of the patient ids; None in cohorts of earlier versions.
        notes: findings of ingest to show to users (shared patients of published splits, ...).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    name: str
    classes: tuple[str, ...] = Field(min_length=1)
    image_size: tuple[int, int]
    bit_depth: Literal[8, 16]
    has_patient_ids: bool
    num_scans: int = Field(ge=0)
    num_patients: int = Field(ge=0)
    counts: dict[str, dict[str, int]]
    patients: dict[str, int]
    pixel_mean: float
    pixel_std: float = Field(gt=0)
    license: str = ""
    citation: str = ""
    findings: tuple[str, ...] = ()
    attributes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    patient_ids: PatientIds | None = None
    notes: tuple[str, ...] = ()

    @model_serializer(mode="wrap")
    def _without_empty_keys(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out empty attributes and patient ids, so that digests of earlier cohorts do not change."""
        body: dict[str, Any] = inner(self)
        for name in ("attributes", "patient_ids"):
            if not getattr(self, name):
                body.pop(name, None)
        return body


class Cohort:
    """Read access to a finished cohort directory.

    Labels and splits are memory-mapped; `take` reads only the rows asked for.

    Args:
        folder: the cohort directory.
        for_splits: open the cohort only for its patients and splits, so that labels numbered by an earlier
            version are accepted.

    Raises:
        DataError: the directory is not a finished cohort, its files do not fit together, or its labels are
            not numbered by the sorted names of the classes.
    """

    def __init__(self, folder: Path, *, for_splits: bool = False) -> None:
        self.folder = folder
        self.reference = load_reference(CohortRef, folder)
        self.info = read_model(
            CohortInfo, folder / "cohort.json", role="cohort", remedy="Ingest the cohort again."
        )
        if not for_splits:
            _require_sorted(self.info)
        self.labels = _load_codes(folder / "labels.npy", len(self.info.classes))
        self.split = _load_codes(folder / "split.npy", len(SPLITS))
        self.shards = PixelShards(folder, role="cohort")
        if not len(self.labels) == len(self.split) == len(self.shards) == self.info.num_scans:
            raise DataError(
                "labels, split and pixels differ in length", field="cohort", remedy="Ingest the cohort again."
            )

    @property
    def digest(self) -> str:
        """The cohort's content digest (sha256, hex)."""
        return self.reference.digest

    def rows(self, split: str, label: int | None = None) -> Ints:
        """Return the row numbers of a split (and of one class), ascending."""
        chosen = np.asarray(self.split) == SPLITS.index(split)
        if label is not None:
            chosen &= np.asarray(self.labels) == label
        return np.flatnonzero(chosen)

    def take(self, rows: npt.NDArray[np.integer] | list[int]) -> StoredPixels:
        """Return stored pixels of `rows`: (n, 1, H, W) uint8 or uint16."""
        return self.shards.take(rows)

    def images(self, rows: npt.NDArray[np.integer] | list[int]) -> npt.NDArray[np.float32]:
        """Return images of `rows` in model range: (n, 1, H, W) float32 in [-1, 1]."""
        return to_model_range(self.take(rows))

    def records(self) -> pd.DataFrame:
        """Return the record table (private), one row per scan in row order, columns `RECORD_COLUMNS`.

        An attribute that was introduced after the cohort was made has no column.
        """
        import pandas as pd

        table = pd.read_parquet(self.folder / "records.parquet")
        needed = (column for column in RECORD_COLUMNS if column not in ATTRIBUTES)
        missing = [column for column in needed if column not in table.columns]
        if missing or len(table) != self.info.num_scans:
            raise DataError(
                "records.parquet does not fit the cohort",
                field="cohort",
                value=missing,
                remedy="Ingest again.",
            )
        return table

    def findings(self) -> npt.NDArray[np.uint8]:
        """Return the findings of every scan: (N, K) uint8, 0 absent, 1 present, 2 uncertain; K may be 0."""
        shape = (self.info.num_scans, len(self.info.findings))
        if not self.info.findings:
            return np.zeros(shape, dtype=np.uint8)
        return self._mapped(FINDINGS_NAME, shape, np.uint8)

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Columns of `attributes`: the attributes that were stored when the cohort was made."""
        return tuple(name for name in ATTRIBUTES if name in self.info.attributes)

    def attributes(self) -> npt.NDArray[np.uint8]:
        """Return the attribute codes of every scan: (N, `attribute_names`) uint8, `UNKNOWN` for none.

        Raises:
            DataError: the cohort has no attributes, or a file that does not fit it.
        """
        return self._mapped(ATTRIBUTES_NAME, (self.info.num_scans, len(self.attribute_names)), np.uint8)

    def patients(self) -> npt.NDArray[np.int32]:
        """Return the patient number of every scan (N,); without patient ids each scan has its own.

        Raises:
            DataError: the cohort has patient ids, but not their numbers (made by an earlier version).
        """
        if not self.info.has_patient_ids:
            return np.arange(self.info.num_scans, dtype=np.int32)
        return self._mapped(PATIENTS_NAME, (self.info.num_scans,), np.int32)

    def _mapped(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
        try:
            stored: npt.NDArray[Any] = np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DataError(
                f"{name} is missing or unreadable", field="cohort", remedy="Ingest again."
            ) from error
        if stored.shape != shape or stored.dtype != dtype:
            raise DataError(f"{name} does not fit the cohort", field="cohort", remedy="Ingest again.")
        return stored

    def derived_path(self, name: str) -> Path:
        """Return the path for a cache of something computed from this cohort only (outside the digest)."""
        folder = self.folder / "derived"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / name


def open_cohort(given: Path | CohortRef) -> Cohort:
    """Open the cohort at a path or of a reference.

    Raises:
        DataError: as for `Cohort`, or the directory holds another cohort than the reference's.
    """
    opened = Cohort(folder_of(given))
    if isinstance(given, CohortRef) and opened.digest != given.digest:
        raise DataError(
            "the cohort directory holds another cohort than the one asked for",
            field="cohort",
            value=str(given.path),
            remedy="Ingest again, or name the right directory.",
        )
    return opened


def _require_sorted(info: CohortInfo) -> None:
    """Refuse a cohort of an earlier version, whose classes or findings stand in the manifest's order."""
    for field, names in (("classes", info.classes), ("findings", info.findings)):
        if list(names) != sorted(names):
            raise DataError(
                f"its {field} are not numbered by their sorted names, as folders and releases number them: "
                "an earlier version made it",
                field="cohort",
                value=", ".join(names) if len(names) <= 8 else None,
                remedy="Ingest it again: `phosphor ingest MANIFEST --out COHORT --force` keeps every patient "
                "in its split. Then train, which can start from the earlier checkpoint (train.init_from).",
            )


def _load_codes(path: Path, num_codes: int) -> npt.NDArray[np.integer]:
    try:
        codes = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(
            f"{path.name} is missing or unreadable", field="cohort", remedy="Ingest again."
        ) from error
    valid = codes.ndim == 1 and np.issubdtype(codes.dtype, np.integer)
    if not valid or (codes.size and (codes.min() < 0 or codes.max() >= num_codes)):
        raise DataError(f"{path.name} holds codes out of range", field="cohort", remedy="Ingest again.")
    return codes
