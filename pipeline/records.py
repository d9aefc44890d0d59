"""References that stages pass to one another, and the names of splits and verdicts."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

SPLITS = ("train", "val", "test", "holdout")
"""Names of the splits; the position is the code stored in `split.npy` (uint8)."""

AUDIT_ROLES = ("", "in", "out")
"""Roles in the membership audit: none, in train by coin flip, or in the holdout by coin flip."""


class Verdict(StrEnum):
    """Verdict of the gate on a candidate set."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


class Policy(StrEnum):
    """Verdicts that may be released: `strict` only PASS, `research` PASS and INCONCLUSIVE; never FAIL."""

    STRICT = "strict"
    RESEARCH = "research"

    def allows(self, verdict: Verdict) -> bool:
        """Return whether a dataset with this verdict may be released under the policy."""
        return verdict is Verdict.PASS or (self is Policy.RESEARCH and verdict is Verdict.INCONCLUSIVE)


class Reference(BaseModel):
    """Finished output of a stage: its path, its counts, and the digest that identifies its content.

    Attributes:
        stage: name of the stage.
        version: version of the stage, raised when the same inputs give another content.
        path: absolute directory of the output.
        digest: sha256 over the names and sha256 of the content files.
        inputs_digest: sha256 over stage, stage version, settings, seed and the digests of the inputs.
        counts: whole numbers to show (scans, candidates, accepted, ...).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: ClassVar[str] = ""
    version: ClassVar[int] = 1

    path: Path
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    inputs_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    counts: dict[str, int] = Field(default_factory=dict)


class CohortRef(Reference):
    """A cohort made by `ingest`."""

    stage: ClassVar[str] = "cohort"
    version: ClassVar[int] = 5


class CheckpointRef(Reference):
    """A checkpoint made by `train`."""

    stage: ClassVar[str] = "checkpoint"
    version: ClassVar[int] = 4


class CandidatesRef(Reference):
    """Candidates made by `sample`."""

    stage: ClassVar[str] = "candidates"
    version: ClassVar[int] = 3


class AuditRef(Reference):
    """A privacy audit made by `audit`."""

    stage: ClassVar[str] = "audit"
    version: ClassVar[int] = 6
    verdict: Verdict


class ReleaseRef(Reference):
    """A released synthetic dataset; `digest` is its content digest."""

    stage: ClassVar[str] = "release"
    version: ClassVar[int] = 2
    verdict: Verdict


class EvaluationRef(Reference):
    """An evaluation of a release against its cohort."""

    stage: ClassVar[str] = "evaluation"
    version: ClassVar[int] = 4


class CellRef(Reference):
    """One site of a study: its arms and their scores."""

    stage: ClassVar[str] = "study cell"
    version: ClassVar[int] = 2
