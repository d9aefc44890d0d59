"""The cohort on disk: pixels, labels and the frozen patient-level split, opened without reading them all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from pipeline.artifacts.pixels import PixelShards, StoredPixels, to_model_range
from pipeline.config import read_model
from pipeline.errors import DataError
from pipeline.records import SPLITS, CohortRef
from pipeline.stage import load_reference

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
    "sex",
    "age_band",
    "view",
    "findings",
)
"""Columns of `records.parquet`, one row a scan in the order of the pixel rows."""


FINDINGS_NAME = "findings.npy"
"""(N, K) uint8 beside `labels.npy` where scans have several labels: 0 absent, 1 present, 2 uncertain."""

ATTRIBUTES = ("sex", "age_band", "view")
ATTRIBUTES_NAME = "attributes.npy"
"""(N, 3) uint8 where a scan has an attribute: position in the values that `cohort.json` lists."""

UNKNOWN = 255
"""Code of an attribute that a scan does not have."""

PATIENTS_NAME = "patients.npy"
"""(N,) int32 beside attributes or findings: scans of one patient have one number."""


class PatientIds(BaseModel):
    """What the patient ids of a cohort, or of a listing, are like.

    Attributes:
        scans: scans that were looked at; a listing does not know those whose id stands in a header.
        patients: patients of these scans.
        largest: scans of the patient that has the most.
        look_alike: ids that look like another one, such as 00007 and 7; they count as patients of their own.
        would_be: patients that these would be.
        on_two_sides: of these, patients with scans on two sides of the split; None before there is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scans: int = Field(0, ge=0)
    patients: int = Field(0, ge=0)
    largest: int = Field(0, ge=0)
    look_alike: int = Field(0, ge=0)
    would_be: int = Field(0, ge=0)
    on_two_sides: int | None = Field(None, ge=0)


class CohortInfo(BaseModel):
    """`cohort.json`: what the cohort is, readable without touching pixels.

    Attributes:
        format_version: version of this layout.
        name: the manifest's name.
        classes: label names, sorted; `labels.npy` holds positions in this list.
        image_size: (height, width) in pixels of every stored image.
        bit_depth: 8 or 16.
        has_patient_ids: whether patients are known; if not, each image counts as its own patient.
        num_scans, num_patients: totals over all splits.
        counts: split -> class -> scans.
        patients: split -> patients.
        pixel_mean, pixel_std: over the train split, in model range [-1, 1].
        license, citation: from the manifest.
        findings: names of the columns of `findings.npy`, sorted; empty where each scan has one label.
        attributes: values of each column of `attributes.npy` in the order of its codes; empty where no scan
            has any.
        patient_ids: the largest patient and ids that look alike; None in cohorts of before.
        notes: what ingest found that is worth showing to people (shared patients of published splits, ...).
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
        """Cohorts without attributes or patient ids keep the bytes, and so the digest, of before."""
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
        for_splits: it is opened for its patients and their splits alone, so that a cohort whose labels an
            earlier version numbered will do.

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

    def rows(self, split: str, label: int | None = None) -> npt.NDArray[np.int64]:
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
        """Return the record table (private), one row a scan in row order, columns `RECORD_COLUMNS`."""
        import pandas as pd

        table = pd.read_parquet(self.folder / "records.parquet")
        missing = [column for column in RECORD_COLUMNS if column not in table.columns]
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

    def attributes(self) -> npt.NDArray[np.uint8]:
        """Return the attribute codes of every scan: (N, 3) uint8, columns `ATTRIBUTES`, `UNKNOWN` for none.

        Raises:
            DataError: the cohort holds none, or a file that does not fit it.
        """
        return self._mapped(ATTRIBUTES_NAME, (self.info.num_scans, len(ATTRIBUTES)), np.uint8)

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
        """Return where something computed from this cohort alone may be cached (outside the digest)."""
        folder = self.folder / "derived"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / name


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
