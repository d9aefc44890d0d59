"""Settings of the phantom cohort, its classes and the plan of each patient."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

CLASSES = ("normal", "consolidation", "effusion", "mass", "cardiomegaly")
FINDINGS = CLASSES[1:]
"""The classes but normal. Of several findings the first in this order is the class."""

# Incremented whenever the same settings would give different files.
GENERATOR_VERSION = 1

_GOLDEN_RATIO = 0.6180339887498949
# Labels of the independent random streams of a patient, so that draws of one do not affect another.
_STREAM_PATIENT, _STREAM_IMAGES, _STREAM_FORMAT, _STREAM_OFFSET, _STREAM_SEVERAL, _STREAM_UNCERTAIN = range(6)
_MOST_FINDINGS = 3  # of one patient


def _default_weights() -> dict[str, float]:
    return {"normal": 0.28, "consolidation": 0.18, "effusion": 0.18, "mass": 0.18, "cardiomegaly": 0.18}


class PhantomSettings(BaseModel):
    """Settings of a phantom cohort.

    Attributes:
        num_patients: number of patients.
        images_per_patient: smallest and largest number of images per patient, both included.
        seed: the only source of randomness; the same settings give the same bytes.
        image_size: longer side of the stored matrix in pixels; the shorter one varies from 0.86 to 1 of it.
        nifti_share: share of the patients written as NIfTI instead of DICOM, in [0, 1].
        class_weights: relative frequency of each class among patients (need not sum to one).
        several_share: share of the patients with a finding who have a second one, in [0, 1]; of these the
            same share has a third. A further finding is drawn by `class_weights` from those that are left.
        uncertain_share: share of the cells of findings in the table that are uncertain (-1) instead of
            1 or 0, in [0, 1]; drawn for each patient and finding, whatever the truth.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_patients: int = Field(default=400, ge=1, le=10_000_000)
    images_per_patient: tuple[int, int] = (1, 3)
    seed: int = Field(default=0, ge=0, lt=2**63)
    image_size: int = Field(default=256, ge=32, le=2048)
    nifti_share: float = Field(default=0.1, ge=0.0, le=1.0)
    class_weights: dict[str, float] = Field(default_factory=_default_weights)
    several_share: float = Field(default=0.0, ge=0.0, le=1.0)
    uncertain_share: float = Field(default=0.0, ge=0.0, le=1.0)

    @field_validator("class_weights")
    @classmethod
    def _known_classes(cls, value: dict[str, float]) -> dict[str, float]:
        unknown = sorted(set(value) - set(CLASSES))
        if unknown:
            raise ValueError(f"class_weights: unknown class {unknown[0]!r}; use only {', '.join(CLASSES)}")
        if any(not np.isfinite(w) or w < 0 for w in value.values()) or sum(value.values()) <= 0:
            raise ValueError("class_weights: weights must be finite, >= 0 and not all zero")
        return value

    @model_validator(mode="after")
    def _image_range(self) -> Self:
        low, high = self.images_per_patient
        if not 1 <= low <= high:
            raise ValueError(f"images_per_patient: ({low}, {high}) must satisfy 1 <= fewest <= most")
        return self

    @model_validator(mode="after")
    def _further_findings(self) -> Self:
        if self.several_share and sum(self.class_weights.get(name, 0.0) > 0 for name in FINDINGS) < 2:
            raise ValueError("several_share: class_weights must have at least two findings with a weight > 0")
        return self

    @model_serializer(mode="wrap")
    def _without_zero_shares(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the keys of several findings at 0, so that digests of one finding do not change."""
        body: dict[str, Any] = inner(self)
        for name in ("several_share", "uncertain_share"):
            if not getattr(self, name):
                body.pop(name, None)
        return body

    @property
    def multiple(self) -> bool:
        """Whether the table has a column for each finding besides the class."""
        return self.several_share > 0 or self.uncertain_share > 0

    def digest(self) -> str:
        """SHA-256 of these settings and of the generator's version (hex)."""
        content = {"generator": GENERATOR_VERSION, **self.model_dump(mode="json")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class PatientPlan(BaseModel):
    """Plan of one patient, fixed before any pixel is rendered.

    Attributes:
        index: 0-based number of the patient in the cohort.
        patient_seed: seed of the anatomy, of the finding and of the identity.
        label: class of every image of this patient: the first finding, or normal.
        num_images: number of images.
        nifti: whether the images are NIfTI files instead of DICOM.
        findings: findings that every image of this patient shows, in the order of FINDINGS: the truth.
        uncertain: findings that the table leaves uncertain, in the order of FINDINGS.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    patient_seed: int
    label: str
    num_images: int
    nifti: bool
    findings: tuple[str, ...]
    uncertain: tuple[str, ...]


class PhantomIndex(BaseModel):
    """Contents of a finished phantom cohort folder.

    Attributes:
        folder: the cohort folder.
        labels_csv: the table (file, patient_id, label, sex, age), one row per image; with several findings
            also a column for each finding: 1, 0 or -1 for uncertain.
        settings_digest: digest of the cohort's settings.
        num_patients: number of patients.
        num_images: number of images, which is also the number of rows of the table.
        num_dicom: number of images written as DICOM.
        num_nifti: number of images written as NIfTI.
        class_counts: number of images per class.
        reused: whether the folder was already complete and nothing was written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    labels_csv: Path
    settings_digest: str
    num_patients: int
    num_images: int
    num_dicom: int
    num_nifti: int
    class_counts: dict[str, int]
    reused: bool = False


def plan_patient(settings: PhantomSettings, index: int) -> PatientPlan:
    """Return the plan of patient `index`, which depends on the settings and this index alone.

    Classes and formats follow a Kronecker sequence (multiples of an irrational number modulo one) instead of
    independent draws, so that even a small cohort has each class in its share.

    Args:
        settings: the cohort's settings.
        index: 0-based number of the patient.

    Returns:
        The plan.
    """
    stream = np.random.SeedSequence([settings.seed, index, _STREAM_PATIENT])
    patient_seed = int(stream.generate_state(1, np.uint64)[0] >> np.uint64(1))
    low, high = settings.images_per_patient
    num_images = int(np.random.default_rng([settings.seed, index, _STREAM_IMAGES]).integers(low, high + 1))
    offsets = np.random.default_rng([settings.seed, _STREAM_OFFSET]).random(2)
    names = [name for name in CLASSES if settings.class_weights.get(name, 0.0) > 0]
    edges = np.cumsum([settings.class_weights[name] for name in names])
    position = (offsets[0] + index * _GOLDEN_RATIO) % 1.0
    drawn = names[min(int(np.searchsorted(edges / edges[-1], position, side="right")), len(names) - 1)]
    findings = _draw_findings(settings, index, drawn)
    unread = np.random.default_rng([settings.seed, index, _STREAM_UNCERTAIN]).random(len(FINDINGS))
    # sqrt(2) is independent of the golden ratio over the rationals, so format does not follow class.
    nifti = bool((offsets[1] + index * np.sqrt(2.0)) % 1.0 < settings.nifti_share)
    return PatientPlan(
        index=index,
        patient_seed=patient_seed,
        label=findings[0] if findings else drawn,
        num_images=num_images,
        nifti=nifti,
        findings=findings,
        uncertain=tuple(
            name for name, draw in zip(FINDINGS, unread, strict=True) if draw < settings.uncertain_share
        ),
    )


def _draw_findings(settings: PhantomSettings, index: int, drawn: str) -> tuple[str, ...]:
    """Return the drawn class and further findings, in the order of FINDINGS; empty for normal."""
    rng = np.random.default_rng([settings.seed, index, _STREAM_SEVERAL])
    present = [drawn] if drawn in FINDINGS else []
    while 0 < len(present) < _MOST_FINDINGS and rng.random() < settings.several_share:
        weights = {name: settings.class_weights.get(name, 0.0) for name in FINDINGS if name not in present}
        total = sum(weights.values())
        if not total:
            break
        present.append(str(rng.choice([*weights], p=[weight / total for weight in weights.values()])))
    return tuple(name for name in FINDINGS if name in present)
