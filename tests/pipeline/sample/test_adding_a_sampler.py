"""A sampler is one entry of a table: with it alone, settings take it, candidates are drawn by it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from models.samplers import SAMPLERS
from pipeline.records import CohortRef
from pipeline.sample.settings import SampleSettings
from pipeline.train import TrainSettings, run_train
from tests import tiny

PROGRAM = """
import json, sys
import tests.pipeline.sample.added_sampler as added
from pathlib import Path
from typing import get_type_hints
from pydantic import ValidationError
from flows.cli.stages import sample
from pipeline.artifacts.candidates import Candidates
from pipeline.sample import SampleSettings, run_sample
from pipeline.settings_page import page

settings = SampleSettings(per_class=2, overdraw=1, sampler=added.NAME, batch_size=2, shard_size=2)
drawn = run_sample(Path(sys.argv[1]), Path(sys.argv[2]), settings, seed=3)
table = Candidates(drawn.path).table
try:
    SampleSettings(sampler=added.NAME, num_steps=1)
    refused = ""
except ValidationError as error:
    refused = str(error)
print(json.dumps({
    "samplers": sorted(set(table["sampler"])),
    "steps": sorted(set(table["num_steps"].tolist())),
    "refused": refused,
    "page": "or `first_guess`" in page() and "or the first guess" in page(),
    "help": get_type_hints(sample, include_extras=True)["sampler"].__metadata__[0].help,
}))
"""


def test_a_sampler_of_ones_own_is_chosen_drawn_by_and_told_of(
    tiny_cohort_16: CohortRef, tmp_path: Path
) -> None:
    settings = TrainSettings(**{**tiny.TRAIN, "num_steps": 3})
    checkpoint = run_train(tiny_cohort_16, tmp_path / "checkpoint", settings, seed=2)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(checkpoint.path), str(tmp_path / "candidates")],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["samplers"] == ["first_guess"] and found["steps"] == [2]
    assert "num_steps=1 must be at least 2 with sampler=first_guess" in found["refused"]
    assert found["page"] and "first_guess" in found["help"]


def test_without_its_entry_it_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValidationError, match=r"'dpmpp_2m', 'dpmpp_2m_sde', .* or 'flow_euler'"):
        SampleSettings(sampler="first_guess")


def test_the_table_is_read_without_torch() -> None:
    code = "import sys, pipeline.sample.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert all(callable(entry.sample) and callable(entry.schedule) for entry in SAMPLERS.values())
