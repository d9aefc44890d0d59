"""Runs a classifier of the user's own in a process with a time limit, a log and a folder for its files."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.artifacts.pixels import StoredPixels
from pipeline.distributed.cpu_threads import usable_cores
from pipeline.errors import DataError
from pipeline.evaluate.arm_names import PLAIN_ARMS
from pipeline.evaluate.arms import Arm
from pipeline.evaluate.own import supervisor
from pipeline.evaluate.training import Fit, Job, num_workers, unusable
from pipeline.evaluate.truth import Targets
from pipeline.storage import PRIVATE_FILE_MODE, make_private_directory, storage_errors


class ChildError(Exception):
    """A process of the user's did not do what it should.

    Args:
        problem: what it did, as in "the classifier ...".
        remedy: what helps, if that is known.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem, self.remedy = problem, remedy
        super().__init__(problem)


class Children:
    """Processes of the user's. Each ends, with all that it started, with the call that runs it.

    Args:
        minutes: time limit of each.
    """

    def __init__(self, minutes: float) -> None:
        self._minutes = minutes
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        """Run a command to its end.

        Args:
            command: program and arguments.
            log: file for its output and errors, replaced (mode 0600).
            environment: variables in addition to those of this process.

        Raises:
            ChildError: it cannot be started, ended with an error, took too long, or was stopped.
            StorageError: the log cannot be written.
        """
        with _private_log(log) as stream, self._started(command, stream, environment) as process:
            try:
                code = process.wait(60.0 * self._minutes)
            except subprocess.TimeoutExpired:
                raise ChildError(
                    f"took more than {self._minutes:g} min",
                    "Raise evaluate.classifier_minutes and run the same command again: classifiers that are "
                    "trained are kept.",
                ) from None
        if code:
            raise ChildError(_ended(code))

    def stop(self) -> None:
        """End the running processes, and start no other one."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                supervisor.end_group(process.pid)

    @contextlib.contextmanager
    def _started(
        self, command: Sequence[str], output: int, environment: Mapping[str, str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        with self._lock:
            if self._stopped:
                raise ChildError("was stopped")
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", supervisor.__file__, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                # A group of its own can be ended as a whole; an interrupt at the terminal reaches only us.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
            self._running.add(process)
        try:
            yield process
        finally:
            with self._lock:
                self._running.discard(process)
                supervisor.end_group(process.pid)
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


class OwnClassifier(ABC):
    """A classifier of the user's own behind the `Classifier` interface.

    A subclass says how images are handed over and how scores are read.

    Args:
        command: program and arguments; the folder with the files of one training is added to them.
        folder: folder of the results, for the logs and for the temporary folders.
        minutes: time limit of each training.
        field: setting that the user has to look at if it fails.
        arms: arms that it can train.
    """

    remedy = (
        "The same command goes on with the classifiers that are trained; with a changed program, --force "
        "trains all of them again."
    )

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        *,
        minutes: float,
        field: str,
        arms: frozenset[str] = PLAIN_ARMS,
    ) -> None:
        self.arms = arms
        self._command, self._folder, self.field = tuple(command), folder.absolute(), field
        self._children = Children(minutes)

    def __call__(
        self,
        arm: Arm,
        parts: Sequence[tuple[StoredPixels, Targets]],
        asked: Sequence[StoredPixels],
        *,
        num_classes: int,
        seed: int,
    ) -> Fit:
        """Train in a process and predict; see `Classifier`.

        Raises:
            DataError: the process failed, or gave scores that cannot be used.
            StorageError: its files cannot be written.
        """
        key = Job(arm, seed, ()).key
        log = self._folder / f"{key}.log"
        # Beside the results: scans are in no other place if this process is killed.
        for left in self._folder.glob(f".{key}-*"):
            shutil.rmtree(left, ignore_errors=True)
        with storage_errors(self._folder):
            folder = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=make_private_directory(self._folder)))
        try:
            with storage_errors(folder):
                self.hand_over(folder, arm, parts, asked, num_classes=num_classes, seed=seed)
            try:
                self._children.run([*self._command, str(folder)], log, self.environment())
            except ChildError as error:
                raise self.explained(folder, error) from error
            return self.read(folder, asked, num_classes=num_classes)
        except ChildError as error:
            raise self._named(arm, seed, error, log) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def stop(self) -> None:
        """End all trainings that are running."""
        self._children.stop()

    def environment(self) -> dict[str, str]:
        """Return the variables for a process: the cores are divided among those that run at a time."""
        return {"OMP_NUM_THREADS": str(max(1, usable_cores() // num_workers()))}

    @abstractmethod
    def hand_over(
        self,
        folder: Path,
        arm: Arm,
        parts: Sequence[tuple[StoredPixels, Targets]],
        asked: Sequence[StoredPixels],
        *,
        num_classes: int,
        seed: int,
    ) -> None:
        """Write what a training needs into its folder; the arguments are those of `Classifier`."""

    @abstractmethod
    def read(self, folder: Path, asked: Sequence[StoredPixels], *, num_classes: int) -> Fit:
        """Read the scores that a training has written.

        Raises:
            ChildError: they cannot be used.
        """

    def explained(self, folder: Path, failure: ChildError) -> ChildError:
        """Return the failure of a process with what its folder says of it."""
        return failure

    def _named(self, arm: Arm, seed: int, failure: ChildError, log: Path) -> DataError:
        remedy = failure.remedy or self.remedy
        return unusable(
            arm, seed, failure.problem, field=self.field, remedy=f"What it printed is in {log}. {remedy}"
        )


@contextlib.contextmanager
def _private_log(path: Path) -> Iterator[int]:
    """Open a file of mode 0600 to write to, and yield its descriptor."""
    with storage_errors(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE_MODE)
    try:
        yield handle
    finally:
        os.close(handle)


def _ended(code: int) -> str:
    """Return in words how a process ended.

    Args:
        code: its exit code, or minus the number of the signal that ended it.
    """
    if code == supervisor.NOT_STARTED:
        return "could not be started"
    if code > 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    more = " (the system does so when memory runs out)" if name == "SIGKILL" else ""
    return f"was killed by {name}{more}"
