"""What a machine chose is kept; what it does not fix follows the processes there are."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from models.diffusion.denoiser import Denoiser
from models.network.network import NetworkSpec
from pipeline.distributed.cpu_threads import threads, usable_cores
from pipeline.distributed.process_group import Place, Ranks
from pipeline.errors import DataError
from pipeline.train.machine_plan import FILE_NAME, make_plan
from pipeline.train.parts import RuntimeSettings, ScheduleSettings

SPEC = NetworkSpec((8, 8), 2, channels=(8,), attention=(False,), num_head_channels=8, num_norm_groups=8)
RUNTIME, SCHEDULE = RuntimeSettings(precision="fp32"), ScheduleSettings()


class Two(Ranks):
    """Process 0 of two on this machine; the other one only listens."""

    def __init__(self, local_size: int = 2) -> None:
        super().__init__(Place(0, 2, 0, local_size))

    def broadcast(self, value: object = None) -> object:
        return value


def test_a_record_of_before_processes_and_compiling_is_read(tmp_path: Path) -> None:
    old = {
        "dtype": "bf16",
        "channels_last": True,
        "measured": {"bf16": 1.5},
        "num_threads": 3,
        "device": "cpu",
    }
    (tmp_path / FILE_NAME).write_text(json.dumps(old))
    if torch.cuda.is_available():
        pytest.skip("the record is of a machine without a GPU")
    plan = make_plan(tmp_path, Denoiser(SPEC), RUNTIME, SCHEDULE)
    assert (plan.precision.dtype, plan.precision.channels_last, plan.precision.compiled) == (
        "bf16",
        True,
        False,
    )
    assert (plan.num_threads, plan.world_size, plan.decisions) == (3, 1, ())
    assert json.loads((tmp_path / FILE_NAME).read_text()) == old


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the threads are left as they are")
@pytest.mark.parametrize(("offered", "local_size", "expected"), [(1, 1, None), (1, 10_000, 1), (3, 2, 3)])
def test_threads_are_shared_by_the_processes_of_a_node_where_torchrun_set_them_to_one(
    tmp_path: Path, offered: int, local_size: int, expected: int | None
) -> None:
    with threads(offered):
        plan = make_plan(tmp_path, Denoiser(SPEC), RUNTIME, SCHEDULE, Two(local_size))
        assert plan.num_threads == (expected or usable_cores())
        fixed = RUNTIME.model_copy(update={"num_threads": 2})
        (tmp_path / FILE_NAME).unlink()
        assert make_plan(tmp_path, Denoiser(SPEC), fixed, SCHEDULE, Two(local_size)).num_threads == 2


def test_another_number_of_processes_is_said_and_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with threads(2), caplog.at_level(logging.INFO, logger="pipeline.train.machine_plan"):
        first = make_plan(tmp_path, Denoiser(SPEC), RUNTIME, SCHEDULE, Two())
        assert first.world_size == 2
        assert make_plan(tmp_path, Denoiser(SPEC), RUNTIME, SCHEDULE, Two()) == first
        assert not caplog.records
        alone = make_plan(tmp_path, Denoiser(SPEC), RUNTIME, SCHEDULE)
        assert "ran as 2 processes of 2 threads and goes on as 1 of 2" in caplog.text
    assert (alone.world_size, alone.precision) == (1, first.precision)
    assert json.loads((tmp_path / FILE_NAME).read_text())["world_size"] == 1


@pytest.mark.parametrize(
    "change", [{"num_threads": 0}, {"dtype": "fp8"}, {"world_size": 0}, {"decisions": [1]}]
)
def test_a_record_out_of_range_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    make_plan(tmp_path, Denoiser(SPEC), RUNTIME, SCHEDULE)
    record = json.loads((tmp_path / FILE_NAME).read_text())
    (tmp_path / FILE_NAME).write_text(json.dumps({**record, **change}))
    with pytest.raises(DataError, match="not readable"):
        make_plan(tmp_path, Denoiser(SPEC), RUNTIME, SCHEDULE)
