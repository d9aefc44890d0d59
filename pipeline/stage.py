"""The protocol every stage follows: reuse what is done, resume what is half done, refuse what is foreign."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from pipeline.config import Settings
from pipeline.errors import KEPT, DataError, OutputExistsError, PhosphorError, TamperedError
from pipeline.locking import LOCK_NAME, change_unused, exclusive_lock
from pipeline.records import Reference
from pipeline.replacing import discard, move_aside
from pipeline.storage import (
    digest_files,
    digest_of,
    make_private_directory,
    read_json,
    sha256_file,
    write_json,
)

INPUTS_NAME = "inputs.json"
REFERENCE_NAME = "reference.json"

logger = logging.getLogger(__name__)

RefT = TypeVar("RefT", bound=Reference)


@dataclass(frozen=True)
class StageFolder(Generic[RefT]):
    """An opened output directory.

    Attributes:
        kind: the reference class of the stage.
        path: the output directory (exists; of mode 0700 if it was made here).
        inputs_digest: digest of all that determines the content.
        finished: the reference if the same output was finished before (nothing is left to do), else None.
        resumed: whether an unfinished output of the same inputs was found.
    """

    kind: type[RefT]
    path: Path
    inputs_digest: str
    finished: RefT | None
    resumed: bool

    def finish(self, files: list[str], counts: Mapping[str, int], **extra: Any) -> RefT:
        """Record the content files' digests and counts; written last, it marks the output as complete.

        Args:
            files: names of the content files relative to `path`; logs, times and pictures stay out.
            counts: whole numbers worth showing.
            **extra: further fields of the reference class (for example `verdict`).
        """
        hashes = digest_files(self.path, files)
        reference = self.kind(
            path=self.path.resolve(),
            digest=digest_of(hashes),
            inputs_digest=self.inputs_digest,
            counts=dict(counts),
            **extra,
        )
        body = reference.model_dump(mode="json", exclude={"path"})
        write_json(
            self.path / REFERENCE_NAME, {"stage": self.kind.stage, "files": hashes, **body}, private=True
        )
        _drop_aside(self.kind, self.path)
        return reference


@contextlib.contextmanager
def open_stage(
    kind: type[RefT],
    out: Path,
    *,
    inputs: Mapping[str, str],
    settings: Settings,
    seed: int | None = None,
    force: bool = False,
) -> Iterator[StageFolder[RefT]]:
    """Open a stage's output directory under a lock.

    Args:
        kind: reference class of the stage.
        out: the output directory.
        inputs: digests of what the stage reads, by role.
        settings: the stage's settings; they and the digest are kept in `inputs.json` beside the output.
        seed: the run seed, for stages that draw random numbers.
        force: replace an existing output of other inputs instead of refusing it. It is moved aside, and
            removed once the new one is finished; a later call with its inputs before that takes it back.

    Raises:
        OutputExistsError: the directory holds an output of other inputs, or files that are not ours; or it is
            to be replaced and cannot be moved, such as a mount point.
    """
    described = _described(kind, inputs, settings, seed)
    inputs_digest = digest_of(described)
    # A link to a directory elsewhere stays: what it leads to is replaced.
    out = out.resolve()
    _make_room(kind, out, inputs_digest, force)
    make_private_directory(out)
    with exclusive_lock(out / LOCK_NAME, out, doing="writing"):
        earlier = _recorded_inputs(out)
        if earlier != inputs_digest:
            write_json(out / INPUTS_NAME, {**described, "inputs_digest": inputs_digest}, private=True)
        finished = load_reference(kind, out) if (out / REFERENCE_NAME).is_file() else None
        if finished is not None:
            _drop_aside(kind, out)
        try:
            yield StageFolder(kind, out, inputs_digest, finished, resumed=earlier == inputs_digest)
        except BaseException as error:
            if _is_kept(out, inputs_digest):
                error.add_note(KEPT)
            raise


def digest_of_inputs(
    kind: type[Reference], inputs: Mapping[str, str], settings: Settings, seed: int | None = None
) -> str:
    """Return the digest by which `open_stage` tells an output of these inputs."""
    return digest_of(_described(kind, inputs, settings, seed))


def _described(
    kind: type[Reference], inputs: Mapping[str, str], settings: Settings, seed: int | None
) -> dict[str, Any]:
    return {
        "stage": kind.stage,
        "version": kind.version,
        "inputs": dict(inputs),
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
    }


def load_reference(kind: type[RefT], folder: Path) -> RefT:
    """Read the reference of a finished output directory, without re-reading its content.

    Raises:
        DataError: not a finished output of this stage.
    """
    body = read_json(folder / REFERENCE_NAME, role=kind.stage)
    if not isinstance(body, dict) or body.pop("stage", None) != kind.stage:
        raise DataError(
            f"not an output of the {kind.stage} stage",
            field=kind.stage,
            value=str(folder),
            remedy=f"Name a finished {kind.stage} directory.",
        )
    body.pop("files", None)
    try:
        return kind(path=folder.resolve(), **body)
    except (ValidationError, TypeError) as error:
        raise TamperedError(
            "reference.json does not have the expected fields",
            field=kind.stage,
            remedy="Make this output again.",
        ) from error


def verify_reference(kind: type[RefT], folder: Path) -> RefT:
    """Read the reference and re-hash every content file against it.

    Raises:
        TamperedError: a content file is missing or differs from what was recorded.
    """
    reference = load_reference(kind, folder)
    files = read_json(folder / REFERENCE_NAME, role=kind.stage).get("files")
    if not isinstance(files, dict) or digest_of(files) != reference.digest:
        raise TamperedError("reference.json was edited", field=kind.stage, remedy="Make this output again.")
    for name, expected in files.items():
        path = folder / name
        inside = path.resolve().is_relative_to(folder.resolve())
        if not inside or not path.is_file() or sha256_file(path) != expected:
            raise TamperedError(
                f"{name} differs from what was recorded when it was made",
                field=kind.stage,
                remedy="Make this output again; nothing was written.",
            )
    return reference


def _recorded_inputs(out: Path) -> str | None:
    path = out / INPUTS_NAME
    if not path.is_file():
        return None
    body = read_json(path, role=INPUTS_NAME)
    return str(body.get("inputs_digest")) if isinstance(body, dict) else None


def aside_path(out: Path) -> Path:
    """Return where an output waits while the one that replaces it is made."""
    out = out.resolve()
    return out.parent / f".{out.name}.previous"


def set_aside(kind: type[Reference], out: Path) -> None:
    """Move an output out of the way of the one that replaces it, which removes it once it is finished.

    Where a finished one waits already, an unfinished one is removed instead.

    Raises:
        OutputExistsError: the directory cannot be moved, or another process is writing to it.
    """
    out, aside = out.resolve(), aside_path(out)
    if aside.is_dir() and any(aside.iterdir()) and not (aside / INPUTS_NAME).is_file():
        raise OutputExistsError(
            "holds files that no stage has written, and the earlier output would wait there",
            field="--out",
            value=str(aside),
            remedy="Move them elsewhere, or name another directory.",
        )
    if (out / REFERENCE_NAME).is_file() or not (aside / INPUTS_NAME).is_file():
        change_unused(out, lambda: move_aside(out, aside, stage=kind.stage))
        logger.info("the earlier %s waits in %s until the new one is complete", kind.stage, aside)
    else:
        change_unused(out, lambda: discard(out, stage=kind.stage))


def _drop_aside(kind: type[Reference], out: Path) -> None:
    """Remove the output that was replaced, once the new one is complete; a folder of others stays."""
    aside = aside_path(out)
    if not (aside / INPUTS_NAME).is_file():
        return
    try:
        discard(aside, stage=kind.stage)
    except OutputExistsError:
        logger.warning("the earlier output could not be removed: remove %s yourself", aside)


def _make_room(kind: type[RefT], out: Path, inputs_digest: str, force: bool) -> None:
    """Leave at `out` nothing, or an output of the same inputs; refuse whatever may not be replaced."""
    if out.is_file():
        raise OutputExistsError("is a file", field="--out", value=str(out), remedy="Name a directory.")
    present = [entry for entry in out.iterdir() if entry.name != LOCK_NAME] if out.is_dir() else []
    recorded = _recorded_inputs(out)
    if not present or recorded == inputs_digest:
        pass
    elif recorded is None:
        if not all(entry.name.startswith(f".{Path(INPUTS_NAME).stem}-") for entry in present):
            raise OutputExistsError(
                "holds files that no stage has written",
                field="--out",
                value=str(out),
                remedy="Name another directory.",
            )
        for entry in present:
            # A kill left it before there was anything else.
            entry.unlink(missing_ok=True)
    elif not force:
        raise OutputExistsError(
            f"holds a {kind.stage} made from other inputs or settings",
            field="--out",
            value=str(out),
            remedy="Name another directory, or give --force to replace it.",
        )
    else:
        set_aside(kind, out)
    aside = aside_path(out)
    if not out.exists() and _recorded_inputs(aside) == inputs_digest:
        logger.info("taking back the earlier %s, which is of the same inputs", kind.stage)
        aside.rename(out)


def _is_kept(out: Path, inputs_digest: str) -> bool:
    """Return whether an output directory still is the one of these inputs."""
    try:
        return _recorded_inputs(out) == inputs_digest
    except (OSError, PhosphorError):
        return False
