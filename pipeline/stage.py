"""Protocol of all stages: reuse finished outputs, resume unfinished ones, refuse those of other inputs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from pipeline.config import Settings
from pipeline.errors import KEPT, DataError, OutputExistsError, PhosphorError, TamperedError
from pipeline.locking import LOCK_NAME, change_unused, exclusive_lock
from pipeline.records import Reference
from pipeline.replacing import discard, may_be_replaced, move_aside
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


class State(StrEnum):
    """Action of a stage for its output directory.

    Attributes:
        NEW: make the output.
        RESUME: complete the unfinished output of the same inputs.
        REUSE: return the finished output of the same inputs.
        REPLACE: replace an output of other inputs, because of `force`.
        REFUSE: raise an error, because the directory has an output of other inputs or other files.
    """

    NEW = "new"
    RESUME = "resume"
    REUSE = "reuse"
    REPLACE = "replace"
    REFUSE = "refuse"


@dataclass(frozen=True)
class StageInputs(Generic[RefT]):
    """Inputs and settings that determine the content of a stage's output.

    Attributes:
        kind: reference class of the stage.
        inputs: role -> digest of an input; None if the input does not exist yet.
        settings: settings that determine the content.
        seed: run seed, for stages that draw random numbers.
        recorded_in: file of an output with the digest of these inputs.
    """

    kind: type[RefT]
    inputs: Mapping[str, str | None]
    settings: Settings
    seed: int | None = None
    recorded_in: str = INPUTS_NAME

    @property
    def described(self) -> dict[str, Any]:
        """Content of `inputs.json`, JSON-ready."""
        return {
            "stage": self.kind.stage,
            "version": self.kind.version,
            "inputs": dict(self.inputs),
            "settings": self.settings.model_dump(mode="json"),
            "seed": self.seed,
        }

    @property
    def digest(self) -> str:
        """Digest that identifies an output of these inputs."""
        return digest_of(self.described)

    def reading(self, **inputs: str | None) -> StageInputs[RefT]:
        """Return the same with additional inputs, role -> digest."""
        return replace(self, inputs={**self.inputs, **inputs})

    def open(self, out: Path, *, force: bool = False) -> contextlib.AbstractContextManager[StageFolder[RefT]]:
        """Open the output directory; see `open_stage`."""
        inputs = {role: digest for role, digest in self.inputs.items() if digest is not None}
        assert len(inputs) == len(self.inputs), "an input is not there yet"
        return open_stage(self.kind, out, inputs=inputs, settings=self.settings, seed=self.seed, force=force)

    def state(self, out: Path, *, force: bool = False) -> State:
        """Return the probable action of the stage for a directory, without writing anything."""
        out = out.resolve()
        holds = _content(out, self.digest, self.recorded_in)
        aside = aside_path(out)
        waits = not is_finished(out) and _recorded_inputs(aside) == self.digest
        if waits and (not out.exists() or (holds is _Holds.ANOTHER and force)):
            # The output that was moved aside would be restored.
            out, holds = aside, _Holds.THE_SAME
        if holds is _Holds.THE_SAME:
            return State.REUSE if is_finished(out) else State.RESUME
        if holds is _Holds.NOTHING:
            return State.NEW
        replaceable = holds is _Holds.ANOTHER and force and may_be_replaced(out)
        return State.REPLACE if replaceable else State.REFUSE


@dataclass(frozen=True)
class StageFolder(Generic[RefT]):
    """Opened output directory.

    Attributes:
        kind: reference class of the stage.
        path: output directory (exists; mode 0700 if it was created here).
        inputs_digest: digest of everything that determines the content.
        finished: reference of the output if it is already finished (nothing is left to do), else None.
        resumed: whether an unfinished output of the same inputs was found.
    """

    kind: type[RefT]
    path: Path
    inputs_digest: str
    finished: RefT | None
    resumed: bool

    def finish(self, files: list[str], counts: Mapping[str, int], **extra: Any) -> RefT:
        """Write the reference with the digests of the content files. It is written last and marks completion.

        Args:
            files: names of the content files relative to `path`, without logs, times and pictures.
            counts: whole numbers to show.
            **extra: additional fields of the reference class (for example `verdict`).
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
        out: output directory.
        inputs: role -> digest of an input.
        settings: settings of the stage, written with the digest to `inputs.json` in the output.
        seed: run seed, for stages that draw random numbers.
        force: replace an existing output of other inputs instead of refusing it. It is moved aside and
            removed when the new output is finished. Until then, a call with its inputs restores it.

    Raises:
        OutputExistsError: the directory has an output of other inputs or files of other programs, or it must
            be replaced and cannot be moved, such as a mount point.
    """
    wanted = StageInputs(kind, inputs, settings, seed)
    inputs_digest = wanted.digest
    # A link to another directory is kept; the directory that it points to is replaced.
    out = out.resolve()
    _make_room(kind, out, inputs_digest, force)
    make_private_directory(out)
    with exclusive_lock(out / LOCK_NAME, out, doing="writing"):
        earlier = _recorded_inputs(out)
        if earlier != inputs_digest:
            write_json(out / INPUTS_NAME, {**wanted.described, "inputs_digest": inputs_digest}, private=True)
        finished = load_reference(kind, out) if (out / REFERENCE_NAME).is_file() else None
        if finished is not None:
            _drop_aside(kind, out)
        try:
            yield StageFolder(kind, out, inputs_digest, finished, resumed=earlier == inputs_digest)
        except BaseException as error:
            if _is_kept(out, inputs_digest):
                error.add_note(KEPT)
            raise


def reference_of(kind: type[RefT], given: Path | RefT) -> RefT:
    """Return the given reference, or that of the finished output at a path.

    Raises:
        DataError: not a finished output of this stage.
    """
    return load_reference(kind, given) if isinstance(given, Path) else given


def load_reference(kind: type[RefT], folder: Path) -> RefT:
    """Read the reference of a finished output directory, without reading its content.

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


def verify_reference(kind: type[RefT], given: Path | RefT) -> RefT:
    """Read the reference of a finished output and re-hash every content file against it.

    Args:
        kind: reference class of the stage.
        given: directory of the output, or the reference that it must have.

    Raises:
        TamperedError: a content file is missing or differs from its recorded digest.
        DataError: the directory has another output than that of the given reference.
    """
    folder = folder_of(given)
    reference = load_reference(kind, folder)
    if isinstance(given, Reference) and given.digest != reference.digest:
        raise DataError(
            f"the directory holds another {kind.stage} than the one asked for",
            field=kind.stage,
            value=str(folder),
            remedy="Make it again, or name the right directory.",
        )
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


def folder_of(given: Path | Reference) -> Path:
    """Return the directory of an output that was given by its path or its reference."""
    return given if isinstance(given, Path) else given.path


def _recorded_inputs(out: Path, name: str = INPUTS_NAME) -> str | None:
    path = out / name
    if not path.is_file():
        return None
    body = read_json(path, role=name)
    return str(body.get("inputs_digest")) if isinstance(body, dict) else None


def is_finished(out: Path) -> bool:
    """Return whether a directory holds a finished output, whatever its inputs."""
    return (out / REFERENCE_NAME).is_file()


class _Holds(Enum):
    """What an output directory holds: nothing that counts, an output, or files that no stage has written."""

    NOTHING, THE_SAME, ANOTHER, FOREIGN = range(4)


def _content(out: Path, inputs_digest: str, recorded_in: str = INPUTS_NAME) -> _Holds:
    """Compare what an output directory says of its inputs with those that are wanted."""
    if out.is_file():
        return _Holds.FOREIGN
    if all(_may_be_dropped(entry) for entry in out.iterdir()) if out.is_dir() else True:
        return _Holds.NOTHING
    recorded = _recorded_inputs(out, recorded_in)
    if recorded is None:
        return _Holds.FOREIGN
    return _Holds.THE_SAME if recorded == inputs_digest else _Holds.ANOTHER


def _may_be_dropped(entry: Path) -> bool:
    """Tell whether a file is the lock, or what a kill left before there was anything else."""
    return entry.name == LOCK_NAME or entry.name.startswith(f".{Path(INPUTS_NAME).stem}-")


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
    holds = _content(out, inputs_digest)
    if holds is _Holds.FOREIGN and out.is_file():
        raise OutputExistsError("is a file", field="--out", value=str(out), remedy="Name a directory.")
    if holds is _Holds.FOREIGN:
        raise OutputExistsError(
            "holds files that no stage has written",
            field="--out",
            value=str(out),
            remedy="Name another directory.",
        )
    if holds is _Holds.ANOTHER and not force:
        unfinished = "" if is_finished(out) else ", which is unfinished"
        raise OutputExistsError(
            f"holds the {kind.stage} of other inputs or settings{unfinished}",
            field="--out",
            value=str(out),
            remedy="Name another directory, or give --force to replace it.",
        )
    if holds is _Holds.ANOTHER:
        set_aside(kind, out)
    if holds is _Holds.NOTHING and out.is_dir():
        for entry in out.iterdir():
            if entry.name != LOCK_NAME:
                entry.unlink(missing_ok=True)
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
