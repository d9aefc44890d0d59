"""Processes of a job agree on what the first one says, and one that fails ends all with its exit code."""

from __future__ import annotations

import json
import signal
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import TCPStore

from pipeline.distributed.process_group import (
    Place,
    Ranks,
    join_ranks,
    place_of_process,
    require_alone,
    timeout_seconds,
)
from pipeline.errors import RankFailedError, UsageError
from tests.jobs import run_job

JOB = {"WORLD_SIZE": "4", "RANK": "2", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}

# As the command line does it: one line on stderr, and the error's exit code.
FRAME = """
import os, signal, sys, time
from pipeline.errors import DataError, PhosphorError
from pipeline.distributed.process_group import join_ranks
try:
    with join_ranks() as ranks:
{body}
except PhosphorError as error:
    sys.stderr.write(f"Error: {{error}}\\n")
    sys.exit(error.exit_code)
"""


def program(*lines: str) -> str:
    return FRAME.format(body="\n".join(" " * 8 + line for line in lines))


@given(count=st.integers(0, 5000), size=st.integers(1, 70))
def test_parts_cover_everything_once_and_differ_by_at_most_one(count: int, size: int) -> None:
    parts = [Ranks(Place(rank, size)).share(count) for rank in range(size)]
    places = [place for part in parts for place in range(count)[part]]
    assert places == list(range(count))
    lengths = {part.stop - part.start for part in parts}
    assert max(lengths) - min(lengths) <= 1


def test_the_thread_that_watches_has_ended_before_the_process_leaves() -> None:
    # Inside the store's network call when Python ends, it would abort a process that has done its work.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    slow = threading.Event()

    class Slow:
        def clone(self) -> Slow:
            return self

        def check(self, keys: list[str]) -> bool:
            slow.set()
            time.sleep(0.5)
            return bool(store.check(keys))

    before = set(threading.enumerate())
    ranks = Ranks(Place(0, 2, 0, 2), Slow())  # type: ignore[arg-type]
    ranks.watch()
    assert slow.wait(10)
    ranks.leave(failed=False)
    assert set(threading.enumerate()) == before


def test_a_process_alone_needs_no_environment() -> None:
    assert place_of_process({}) == place_of_process({"WORLD_SIZE": "1", "RANK": "0"}) == Place()
    with join_ranks() as ranks:
        assert ranks.is_main
        assert ranks.size == 1
        assert ranks.broadcast({"a": 1}) == {"a": 1}
        ranks.wait_for_all()


def test_the_environment_of_torchrun_is_read() -> None:
    given_ = {**JOB, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert place_of_process(given_) == Place(rank=2, size=4, local_rank=1, local_size=2)
    assert place_of_process(JOB) == Place(rank=2, size=4, local_rank=0, local_size=1)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"RANK": "4"}, "RANK"),
        ({"RANK": "-1"}, "RANK"),
        ({"RANK": None}, "RANK"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE"),
        ({"LOCAL_RANK": "9"}, "LOCAL_RANK"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR"),
        ({"MASTER_PORT": None}, "MASTER_PORT"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT"),
    ],
)
def test_an_environment_that_cannot_be_right_is_named(change: dict[str, Any], field: str) -> None:
    given_ = {name: value for name, value in {**JOB, **change}.items() if value is not None}
    with pytest.raises(UsageError) as caught:
        place_of_process(given_)
    assert caught.value.field == field
    assert caught.value.exit_code == 2
    assert caught.value.remedy


def test_a_command_for_one_process_is_refused_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    require_alone("run")
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="run works as one process"):
        require_alone("run")


def test_a_failure_keeps_its_exit_code_when_it_is_pickled() -> None:
    import pickle

    error = RankFailedError(1, "cohort: missing", 3)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert pickle.loads(pickle.dumps(error)).exit_code == 3


def test_what_the_first_process_says_is_heard_by_all() -> None:
    said = {"text": "ä" * 3000, "numbers": [1, 2.5, None], "empty": {}}
    done = run_job(
        program(
            f"value = {said!r} if ranks.is_main else None",
            "import json, torch",
            "tensors = [torch.full((3, 2), float(ranks.rank + 1)), torch.tensor(float(ranks.rank))]",
            "ones = torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)",
            "tensors.append(ones + ranks.rank)",
            "ranks.broadcast_tensors(tensors)",
            "assert [float(t.sum()) for t in tensors] == [6.0, 0.0, 120.0]",
            "assert tensors[2].is_contiguous(memory_format=torch.channels_last)",
            "print(json.dumps(ranks.broadcast(value)))",
        )
        + "\nwith join_ranks() as ranks:\n    assert ranks.broadcast(ranks.rank) == 0\n"
    )
    assert [process.returncode for process in done] == [0, 0], done[0].stderr + done[1].stderr
    assert [json.loads(process.stdout) for process in done] == [said, said]


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_on_one_process_ends_the_other_with_its_message_and_exit_code(failing: int) -> None:
    done = run_job(
        program(
            f"if ranks.rank == {failing}:",
            "    raise DataError('is gone', field='cohort', remedy='Find it.')",
            "ranks.wait_for_all()",
        )
    )
    assert [process.returncode for process in done] == [3, 3], done[0].stderr + done[1].stderr
    other = done[1 - failing].stderr
    assert f"process {failing} failed: cohort: is gone. Find it." in other
    assert "Traceback" not in other


@pytest.mark.parametrize(
    ("failing", "end", "codes"),
    [
        (0, "os.kill(os.getpid(), signal.SIGKILL)", [-signal.SIGKILL, 1]),
        (1, "raise DataError('is gone')", [3, 3]),
    ],
)
def test_the_end_of_a_process_ends_another_that_waits_for_nothing(
    failing: int, end: str, codes: list[int]
) -> None:
    """A process that waits on a GPU for a dead one cannot be reached by an exception: a sleeper stands in."""
    done = run_job(
        program("ranks.wait_for_all()", f"if ranks.rank == {failing}:", f"    {end}", "time.sleep(600)")
    )
    assert [process.returncode for process in done] == codes
    assert "Run the same command again in all processes" in done[1 - failing].stderr


def test_too_few_processes_are_said_not_waited_for_for_ever() -> None:
    done = run_job(program("ranks.wait_for_all()"), size=2, world_size=3, PHOSPHOR_RANKS_TIMEOUT="4")
    assert [process.returncode for process in done] == [1, 1]
    for process in done:
        assert "did not meet all 3 processes within 4 s" in process.stderr, process.stderr
        assert "PHOSPHOR_RANKS_TIMEOUT" in process.stderr


def test_processes_with_different_commands_are_refused() -> None:
    done = run_job(
        program(
            "from pipeline.distributed.broadcast import require_same_command",
            "require_same_command(ranks, ['train', ranks.rank])",
            "ranks.wait_for_all()",
        )
    )
    assert [process.returncode for process in done] == [2, 2], done[0].stderr + done[1].stderr
    assert "process 1 was given another input, recipe or seed" in done[1].stderr


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "1e9"])
def test_a_timeout_that_is_no_number_of_seconds_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOSPHOR_RANKS_TIMEOUT", text)
    with pytest.raises(UsageError, match="PHOSPHOR_RANKS_TIMEOUT"):
        timeout_seconds()
