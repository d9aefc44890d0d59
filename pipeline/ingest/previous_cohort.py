"""An earlier cohort that is continued: its patients keep their side, unchanged files are not read again."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts.cohort import Cohort, CohortInfo
from pipeline.errors import DataError, UsageError
from pipeline.ingest.settings import IngestSettings
from pipeline.ingest.splitting.survey import is_of_the_draw
from pipeline.records import AUDIT_ROLES, SPLITS, CohortRef
from pipeline.stage import INPUTS_NAME, REFERENCE_NAME, StageInputs, aside_path, set_aside
from pipeline.storage import read_json, sha256_file

logger = logging.getLogger(__name__)

_SPLIT_SETTINGS = ("split_seed", "val_share", "test_share", "holdout_share", "audit_share")


@dataclass(frozen=True)
class Earlier:
    """A finished cohort that a new one continues.

    Attributes:
        path: its directory.
        digest: its content digest.
    """

    path: Path
    digest: str

    def known_sides(self, name: str, settings: IngestSettings) -> dict[str, tuple[int, int]]:
        """Return patient pseudonym -> (position in `SPLITS`, position in `AUDIT_ROLES`).

        Empty where the cohort has another name, or was split by another seed or other shares: then the
        split is drawn anew.

        Args:
            name: name of the new cohort's manifest.
            settings: settings of the new cohort.
        """
        cohort = Cohort(self.path, for_splits=True)
        before = read_json(self.path / INPUTS_NAME, role="earlier cohort").get("settings", {})
        same = all(before.get(word) == getattr(settings, word) for word in _SPLIT_SETTINGS)
        if not same or cohort.info.name != name:
            logger.warning("the earlier cohort was split otherwise: the split is drawn anew")
            return {}
        table = cohort.records()[["patient_id", "split", "audit"]].drop_duplicates("patient_id")
        return {
            patient: (SPLITS.index(split), AUDIT_ROLES.index(audit))
            for patient, split, audit in table.itertuples(index=False)
        }

    def described_again(self, info: CohortInfo, out: Path, files: Iterable[str]) -> CohortInfo:
        """Return the description of a new cohort, with the notes of this one if both hold the same data.

        Notes on how the split came about differ between a first ingest and one that finds all patients again.
        All others must be equal: a table may say something new of the same data. Equal notes give an equal
        digest: files that only have new times (copied, restored from a backup) then cost a new ingest, but no
        new training.

        Args:
            info: description of the new cohort.
            out: directory of the new cohort.
            files: names of its files, without the description.
        """
        before = Cohort(self.path, for_splits=True).info
        if _without_the_draw(before) != _without_the_draw(info):
            return info
        recorded = read_json(self.path / REFERENCE_NAME, role="earlier cohort").get("files", {})
        same = all(recorded.get(name) == sha256_file(out / name) for name in files)
        return before if same else info


def _without_the_draw(info: CohortInfo) -> CohortInfo:
    notes = tuple(note for note in info.notes if not is_of_the_draw(note))
    return info.model_copy(update={"notes": notes})


def open_earlier(path: Path, key_digest: str) -> Earlier:
    """Open an earlier cohort.

    Args:
        path: the cohort directory.
        key_digest: digest of the pseudonym key, as in the inputs of a cohort.

    Raises:
        DataError: not a finished cohort.
        UsageError: its pseudonyms were made with another key.
    """
    cohort = Cohort(path, for_splits=True)
    recorded = read_json(path / INPUTS_NAME, role="earlier cohort")
    if recorded.get("inputs", {}).get("key") != key_digest:
        raise UsageError(
            "the earlier cohort was made with another pseudonym key, so its patients cannot be told",
            field="ingest.previous",
            value=str(path),
            remedy="Use the key it was made with, or start a cohort without it.",
        )
    return Earlier(path.absolute(), cohort.digest)


def earlier_of(
    out: Path, wanted: StageInputs[CohortRef], settings: IngestSettings, *, force: bool
) -> tuple[StageInputs[CohortRef], Earlier | None]:
    """Return the inputs with the earlier cohort among them, and that cohort if it is needed.

    It is the one that `ingest.previous` names. Without that, a cohort at `out` that is replaced by force is
    set aside and continued, and a killed run finds it there again.

    Args:
        out: the output directory.
        wanted: all other inputs, the digest of the pseudonym key among them.
        settings: ingest settings.
        force: whether an existing cohort of other inputs is to be replaced.
    """
    key = str(wanted.inputs["key"])
    earlier = named_earlier(out, settings, key)
    if earlier is not None:
        return wanted.reading(previous=earlier.digest), earlier
    aside = aside_path(out)
    recorded, continued = _recorded(out), continuing(out, wanted)
    if recorded.get("inputs_digest") == continued.digest:
        digest = str(continued.inputs["previous"])
        finished = (out / REFERENCE_NAME).is_file()
        return continued, None if finished or not digest else _waiting(aside, digest, key)
    # A kill right after it was set aside leaves no output: then the earlier cohort is continued as well.
    if recorded and not force:
        return wanted.reading(previous=""), None
    if _is_finished(out, key):
        set_aside(CohortRef, out)
    if not _is_finished(aside, key):
        return wanted.reading(previous=""), None
    earlier = open_earlier(aside, key)
    return wanted.reading(previous=earlier.digest), earlier


def named_earlier(out: Path, settings: IngestSettings, key_digest: str) -> Earlier | None:
    """Return the cohort that `ingest.previous` names, or None.

    Raises:
        DataError, UsageError: as for `open_earlier`.
    """
    # Named as its own successor, it is continued in place: to open it here would be to lose it.
    if settings.previous is None or settings.previous.resolve() == out.resolve():
        return None
    return open_earlier(settings.previous, key_digest)


def continuing(out: Path, wanted: StageInputs[CohortRef]) -> StageInputs[CohortRef]:
    """Return the inputs with the earlier cohort that the one at `out` was begun with, if there was one."""
    return wanted.reading(previous=str(_recorded(out).get("inputs", {}).get("previous", "")))


def _is_finished(path: Path, key_digest: str) -> bool:
    """Return whether a finished cohort of this key lies at `path`."""
    of_key = _recorded(path).get("inputs", {}).get("key") == key_digest
    return of_key and (path / REFERENCE_NAME).is_file()


def _recorded(out: Path) -> dict[str, Any]:
    path = out / INPUTS_NAME
    body = read_json(path, role=INPUTS_NAME) if path.is_file() else {}
    return body if isinstance(body, dict) else {}


def _waiting(aside: Path, digest: str, key_digest: str) -> Earlier:
    found = open_earlier(aside, key_digest) if (aside / REFERENCE_NAME).is_file() else None
    if found is None or found.digest != digest:
        raise DataError(
            "the earlier cohort that this unfinished one continues is gone",
            field="--out",
            value=str(aside),
            remedy="Put it back, or name another --out.",
        )
    return found
