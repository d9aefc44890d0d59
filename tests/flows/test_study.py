"""A study as a user runs it: sites, generators, classifiers, one page; asked again, nothing twice."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from pipeline.append_log import READS_NAME, read_entries
from pipeline.evaluate.study.report import read_study
from tests.flows.conftest import MICRO, PHANTOM, Call, sets, spawn

QUICK = (
    *MICRO,
    "evaluate.ratios=[1]",
    "evaluate.strengths=[0.5]",
    'study.arms=["real","real_augmented","real_strong","real_duplicated","real_synthetic","pretrained",'
    '"agreeing","synthetic"]',
)
WHAT = ("--recipe", "smoke", "--regime", "shared,self", "--sizes", "6", "--draws", "2")


@pytest.fixture(scope="module")
def finished(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a whole study of the micro recipe, whose first call had no time."""
    folder = tmp_path_factory.mktemp("study") / "out"
    first = spawn("study", PHANTOM, "--out", folder, *WHAT, *sets(QUICK), "--set", "study.max_hours=0.000001")
    out, err = first.communicate(timeout=600)
    assert first.returncode == 0, err
    body = json.loads(out.strip().splitlines()[-1])
    assert body["missing"] == 4
    second = spawn("study", PHANTOM, "--out", folder, *WHAT, *sets(QUICK))
    out, err = second.communicate(timeout=900)
    assert second.returncode == 0, err
    body = json.loads(out.strip().splitlines()[-1])
    assert (body["stage"], body["missing"]) == ("study", 0)
    assert set(body["verdicts"]) == {"shared 6", "self 6"}
    assert "study 4 of 4: self-6-1" in err
    return folder


def test_the_report_holds_every_arm_of_every_regime(finished: Path) -> None:
    report = read_study(finished)
    assert [(row.regime, row.size, row.sites) for row in report.rows] == [("shared", 6, 2), ("self", 6, 2)]
    for row in report.rows:
        keys = {arm.key for arm in row.arms}
        assert {"real", "real_augmented", "real_strong-0.5", "real_duplicated-1", "pretrained"} <= keys
        assert row.difference is not None and row.difference.low is not None
        assert row.difference.low <= row.difference.value <= (row.difference.high or 1.0)
        assert set(row.errors) == {"patients", "sites", "seeds"}
        assert row.chosen in keys and row.rival in keys
        assert row.sites == 2 and not any("no train scan" in note for note in row.notes)
        assert row.verdict in row.words and sum(row.gates.values()) == row.sites
    assert len(read_entries(finished / READS_NAME)) == 1


def test_the_page_and_the_table_show_it(finished: Path) -> None:
    page = (finished / "study.html").read_text(encoding="utf-8")
    assert "data:image/svg+xml" in page and "http" not in page.replace("http-equiv", "")
    report = read_study(finished)
    assert all(row.words.split(" changed")[0][:30] in page for row in report.rows)
    with (finished / "study.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == sum(len(row.arms) for row in report.rows)
    assert {row["role"] for row in rows} == {"", "chosen", "strongest real"}
    for path in finished.rglob("*"):
        if path.is_file() and "prefect" not in str(path):
            assert path.stat().st_mode & 0o077 == 0, path.name


def test_asked_again_nothing_is_trained_again(finished: Path, call: Call) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.glob("cells/*/*/reference.json")}
    assert before
    again = call("study", PHANTOM, "--out", finished, *WHAT, *sets(QUICK))
    assert again.code == 0, again.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(read_entries(finished / READS_NAME)) == 1


def test_what_was_removed_is_made_again_and_ends_the_same(finished: Path, call: Call) -> None:
    before = read_study(finished)
    shutil.rmtree(finished / "cells" / "self-6-1" / "cell")
    again = call("study", PHANTOM, "--out", finished, *WHAT, *sets(QUICK))
    assert again.code == 0, again.err
    assert read_study(finished) == before


def test_without_time_left_what_is_finished_is_reported(finished: Path, call: Call) -> None:
    before = read_study(finished)
    shutil.move(finished / "cells" / "self-6-0" / "cell", finished / "aside")
    no_time = ("--set", "study.max_hours=0.000001")
    hurried = call("study", PHANTOM, "--out", finished, *WHAT, *sets(QUICK), *no_time)
    shutil.move(finished / "aside", finished / "cells" / "self-6-0" / "cell")
    assert hurried.code == 0, hurried.err
    assert hurried.last_line["missing"] == 1 and "1 site left out" in hurried.err
    assert [(row.regime, row.sites) for row in read_study(finished).rows] == [("shared", 2), ("self", 1)]
    assert call("study", PHANTOM, "--out", finished, *WHAT, *sets(QUICK)).code == 0
    assert read_study(finished) == before


def test_a_plan_tells_what_is_finished_and_writes_nothing(finished: Path, call: Call) -> None:
    before = sorted(finished.rglob("*"))
    plan = call("study", PHANTOM, "--out", finished, *WHAT, *sets(QUICK), "--dry-run")
    assert plan.code == 0, plan.err
    assert plan.last_line == {"finished": 4, "seconds": 0.0, "sites": 4, "stage": "dry-run"}
    assert "hardly be seen" in plan.err and sorted(finished.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--regime", "elsewhere"), "study.regimes"),
        (("--sizes", "few"), "study.sizes"),
        (("--draws", "0"), "study.draws"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, call: Call, arguments: tuple[str, ...], named: str) -> None:
    done = call("study", PHANTOM, "--out", tmp_path / "out", *arguments)
    assert done.code == 2 and named in done.err


def test_a_given_release_stands_in_for_the_shared_generator(
    finished_run: Path, tmp_path: Path, call: Call
) -> None:
    """Its generator has seen the sites' scans, as both are of one cohort: the report says so."""
    what = ("--regime", "shared", "--sizes", "6", "--draws", "1", "--release", finished_run / "release")
    done = call("study", PHANTOM, "--out", tmp_path / "out", "--recipe", "smoke", *what, *sets(QUICK))
    assert done.code == 0, done.err
    [row] = read_study(tmp_path / "out").rows
    assert any("has seen the sites' scans" in note for note in row.notes)
    assert not (tmp_path / "out" / "elsewhere").exists()
