"""Process group of a job: the place of each process, their communication, and the handling of errors."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pipeline.errors import PhosphorError, RankFailedError, UsageError

if TYPE_CHECKING:
    import torch
    from torch.distributed.distributed_c10d import Store

logger = logging.getLogger(__name__)

TIMEOUT_VARIABLE = "PHOSPHOR_RANKS_TIMEOUT"
DEFAULT_TIMEOUT = 1800.0
"""Seconds that a process waits for the others: to start, and in each exchange."""

POLL_SECONDS = 0.5
GRACE_SECONDS = 5.0
"""Seconds in which a process must notice the failure of another one before it is ended."""

_WATCHER_ENDS_SECONDS = 10.0
"""Longest time that a leaving process waits for its watching thread; a call of the store takes less."""

_FAILED = "failed"
_groups = itertools.count()


@dataclass(frozen=True)
class Place:
    """Place of a process in its job.

    Attributes:
        rank: number of the process, from 0.
        size: number of processes of the job.
        local_rank: number of the process on its node.
        local_size: number of processes of the job on its node.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def place_of_process(environment: Mapping[str, str] | None = None) -> Place:
    """Read RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, as `torchrun` and flows/cluster set them.

    Raises:
        UsageError: they contradict each other, or the address of the first process is missing.
    """
    given = os.environ if environment is None else environment
    size = _number(given, "WORLD_SIZE", 1, 1, 1_000_000)
    if size == 1:
        return Place()
    if "RANK" not in given:
        raise UsageError(
            "WORLD_SIZE asks for several processes, but RANK does not say which one this is",
            field="RANK",
            remedy="Start it with torchrun or a template of flows/cluster, or unset WORLD_SIZE.",
        )
    rank = _number(given, "RANK", 0, 0, size - 1)
    local_size = _number(given, "LOCAL_WORLD_SIZE", 1, 1, size)
    local_rank = _number(given, "LOCAL_RANK", 0, 0, size - 1)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not given.get(name):
            raise UsageError(
                "several processes need the address of the first one",
                field=name,
                remedy="Set MASTER_ADDR and MASTER_PORT to the host and a free port of process 0.",
            )
    _number(given, "MASTER_PORT", 0, 1, 65_535)
    return Place(rank, size, local_rank, max(local_size, local_rank + 1))


def require_alone(command: str) -> None:
    """Refuse a command that must run in a single process.

    Raises:
        UsageError: the environment makes this process one of several.
    """
    size = place_of_process().size
    if size > 1:
        raise UsageError(
            f"{command} works as one process; train, sample and audit share their work",
            field="WORLD_SIZE",
            value=size,
            remedy="Start train, sample and audit under torchrun, and the other commands without it.",
        )


def _number(given: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = given.get(name) or str(default)
    if not text.isdecimal() or not low <= int(text) <= high:
        raise UsageError(
            f"must be a whole number from {low} to {high}",
            field=name,
            value=text[:40],
            remedy="Start all processes of the job with the same WORLD_SIZE and each with its own RANK.",
        )
    return int(text)


class Ranks:
    """This process among those of its job; alone, every exchange is free.

    Args:
        place: where it stands.
        store: the store that all processes of the job reach; None if it is alone.
    """

    def __init__(self, place: Place | None = None, store: Store | None = None) -> None:
        self.place = place or Place()
        self._store = store
        self._left = threading.Event()
        self._watcher: threading.Thread | None = None

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return self.place.rank

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.place.size

    @property
    def exchanges(self) -> bool:
        """Whether the job has several processes, which communicate through a process group."""
        return self.place.size > 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and reports to the user."""
        return self.place.rank == 0

    def share(self, count: int) -> slice:
        """Return this process's part of `count` items; the sizes of the parts differ by at most one."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def broadcast(self, value: Any = None) -> Any:
        """Return the JSON-ready `value` of process 0 on every process.

        Raises:
            RankFailedError: another process failed.
        """
        if not self.exchanges:
            return value
        import torch
        from torch.distributed import broadcast

        with self.exchange():
            body = json.dumps(value).encode() if self.is_main else b""
            length = torch.tensor([len(body)], dtype=torch.int64)
            broadcast(length, src=0)
            data = torch.zeros(int(length), dtype=torch.uint8)
            if self.is_main:
                data = torch.frombuffer(bytearray(body), dtype=torch.uint8)
            broadcast(data, src=0)
        return json.loads(bytes(data.tolist()))

    def broadcast_tensors(self, tensors: Sequence[torch.Tensor]) -> None:
        """Copy process 0's values into the tensors of every process, in place."""
        if not self.exchanges:
            return
        from models.optim.distributed import broadcast_tensors

        with self.exchange():
            broadcast_tensors(tensors)

    def wait_for_all(self) -> None:
        """Wait until every process has reached this call."""
        if self.exchanges:
            import torch
            from torch.distributed import all_reduce

            with self.exchange():
                all_reduce(torch.zeros(1))

    @contextlib.contextmanager
    def exchange(self) -> Iterator[None]:
        """Replace the exception of a failed exchange by the error of the other process.

        Raises:
            RankFailedError: another process failed, ended or did not answer in time.
        """
        try:
            yield
        except RuntimeError as error:
            raise self._failure() from error

    def announce(self, error: BaseException) -> None:
        """Report the failure of this process to the others, without messages that may hold patient data."""
        known = isinstance(error, PhosphorError)
        body = {
            "rank": self.rank,
            "problem": str(error) if known else f"unexpected {type(error).__name__}",
            "exit_code": error.exit_code if isinstance(error, PhosphorError) else 1,
        }
        assert self._store is not None
        with contextlib.suppress(RuntimeError):
            if not self._store.check([_FAILED]):
                self._store.set(_FAILED, json.dumps(body))

    def leave(self, *, failed: bool) -> None:
        """Leave the job."""
        import torch
        from torch import distributed

        self._left.set()
        if self._watcher is not None:
            # A thread that is inside a call of the store when Python ends aborts the process.
            self._watcher.join(_WATCHER_ENDS_SECONDS)
        # Destroying an NCCL group waits for messages that the others will never send.
        if distributed.is_initialized() and not (failed and torch.cuda.is_available()):
            distributed.destroy_process_group()

    def watch(self) -> None:
        """Start a thread that ends this process if another one has failed and it does not notice.

        A process that waits on a GPU for a dead process cannot be interrupted by an exception.
        """
        assert self._store is not None
        # A separate connection, because a waiting call blocks the other one.
        clone = self._store.clone()  # type: ignore[attr-defined]
        self._watcher = threading.Thread(target=self._watch, args=(clone,), daemon=True)
        self._watcher.start()

    def _watch(self, store: Store) -> None:
        while not self._left.wait(POLL_SECONDS):
            try:
                if not store.check([_FAILED]):
                    continue
            except RuntimeError:
                # The process with the store has ended.
                pass
            if self._left.wait(GRACE_SECONDS):
                return
            failure = self._failure(patience=0.0)
            sys.stderr.write(f"Error: {failure}\n")
            sys.stderr.flush()
            os._exit(failure.exit_code)

    def _failure(self, patience: float = 3.0) -> RankFailedError:
        """Return the error that another process reported; the report may arrive shortly after its end."""
        assert self._store is not None
        until = time.monotonic() + patience
        with contextlib.suppress(RuntimeError, ValueError):
            while not self._store.check([_FAILED]):
                if time.monotonic() >= until:
                    break
                time.sleep(0.1)
            else:
                body = json.loads(self._store.get(_FAILED))
                return RankFailedError(int(body["rank"]), str(body["problem"]), int(body["exit_code"]))
        return RankFailedError(
            None,
            f"process {self.rank} of {self.size} lost the others: one ended or did not answer in time",
            1,
        )


@contextlib.contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Join the processes of the job, and leave them at the end; a single process without WORLD_SIZE.

    The processes communicate through gloo on CPUs and through NCCL on GPUs, with one GPU per process. An
    error inside the block ends all processes.

    Raises:
        UsageError: the environment cannot be right.
        RankFailedError: another process failed, or not all of them came in time.
    """
    place = place_of_process()
    if place.size == 1:
        yield Ranks(place)
        return
    ranks = connect(place)
    failed = True
    try:
        yield ranks
        ranks.wait_for_all()
        failed = False
    except RankFailedError:
        raise
    except BaseException as error:
        ranks.announce(error)
        raise
    finally:
        ranks.leave(failed=failed)


def timeout_seconds() -> float:
    """Return the seconds that a process waits for the others (`PHOSPHOR_RANKS_TIMEOUT`, else 30 minutes).

    Raises:
        UsageError: the variable holds no positive number.
    """
    text = os.environ.get(TIMEOUT_VARIABLE, str(DEFAULT_TIMEOUT))
    try:
        seconds = float(text)
        if 0.0 < seconds <= 86_400.0:
            return seconds
    except ValueError:
        pass
    raise UsageError(
        "must be a number of seconds up to a day", field=TIMEOUT_VARIABLE, value=text[:40], remedy="Unset it."
    )


def connect(place: Place) -> Ranks:
    """Join the processes of a job and watch over them; `Ranks.leave` ends it.

    Raises:
        UsageError: the node has no GPU left for this process.
        RankFailedError: not all processes came in time.
    """
    import torch
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore

    if torch.cuda.is_available():
        if place.local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"each process needs a GPU of its own, and this node shows {torch.cuda.device_count()}",
                field="LOCAL_RANK",
                value=place.local_rank,
                remedy="Start no more processes on a node than it has GPUs.",
            )
        torch.cuda.set_device(place.local_rank)
    timeout = timedelta(seconds=timeout_seconds())
    try:
        # A job may join several times, once a stage: each time under a name of its own.
        store = PrefixStore(f"phosphor-{next(_groups)}", _job_store(place))
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=PrefixStore("group", store),
            rank=place.rank,
            world_size=place.size,
            timeout=timeout,
        )
    except (RuntimeError, ValueError) as error:
        raise RankFailedError(
            None,
            f"process {place.rank} did not meet all {place.size} processes within "
            f"{timeout.total_seconds():.0f} s at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}: "
            f"start as many as WORLD_SIZE says, or raise {TIMEOUT_VARIABLE}",
            1,
        ) from error
    ranks = Ranks(place, store)
    ranks.watch()
    logger.info("process %d of %d", place.rank, place.size)
    return ranks


@functools.cache
def _job_store(place: Place) -> Store:
    """Return the store of torchrun, or that of process 0 without torchrun."""
    from torch.distributed.rendezvous import rendezvous

    timeout = timedelta(seconds=timeout_seconds())
    store: Store = next(rendezvous("env://", place.rank, place.size, timeout=timeout))[0]
    return store
