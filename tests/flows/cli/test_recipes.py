"""`phosphor recipe show`: every setting with its value and where it comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.cli.options import RECIPE_HELP
from pipeline.recipe import leaf_keys, load_recipe, recipe_names
from tests.flows.conftest import Call, spawn


def shown(text: str) -> dict[str, tuple[str, str]]:
    """Return key -> (value, origin) of the lines that are printed before the JSON line."""
    rows = {}
    for line in text.strip().splitlines()[:-1]:
        key, rest = line.split(maxsplit=1)
        value, origin = rest.rsplit(maxsplit=1)
        rows[key] = (value.strip(), origin)
    return rows


def test_help_names_every_recipe() -> None:
    named = RECIPE_HELP.removeprefix("Recipe: ").removesuffix(", or the path of a YAML file.")
    assert sorted(named.split(", ")) == recipe_names()


@pytest.mark.parametrize("name", recipe_names())
def test_every_setting_is_printed_and_makes_the_same_recipe_again(call: Call, name: str) -> None:
    done = call("recipe", "show", name)
    assert done.code == 0, done.err
    rows = shown(done.out)
    assert list(rows) == leaf_keys()
    overrides = [f"{key}={value}" for key, (value, _) in rows.items()]
    assert load_recipe("cpu", overrides) == load_recipe(name)


def test_every_value_says_where_it_comes_from(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("train: {num_steps: 9, augment: 0.5}\nsample: {per_class: 640}\n")
    done = call(
        "recipe", "show", path, "--set", "train.num_steps=7", "--set", "sample.given.sex=F", "--set", "seed=0"
    )
    rows = shown(done.out)
    assert rows["train.num_steps"] == ("7", "--set")
    assert rows["train.augment"] == ("0.5", "mine.yaml")
    # Where it is written counts, also where it says what the default is.
    assert rows["sample.per_class"] == ("640", "mine.yaml")
    assert rows["seed"] == ("0", "--set")
    assert rows["sample.given"] == ("{sex: F}", "--set")
    assert rows["train.batch_size"] == ("64", "default")
    stated = {key: origin for key, (_, origin) in rows.items() if origin != "default"}
    assert done.last_line["changed"] == stated
    assert done.last_line["digest"] == load_recipe(path, ["train.num_steps=7", "sample.given.sex=F"]).digest()


def test_a_section_that_is_set_whole_leaves_nothing_of_the_file(call: Call) -> None:
    rows = shown(call("recipe", "show", "smoke", "--set", "evaluate={seeds: 3}").out)
    assert rows["evaluate.seeds"] == ("3", "--set")
    assert rows["evaluate.num_steps"][1] == "default"
    assert rows["audit.embedding_steps"] == ("40", "smoke.yaml")


def test_the_columns_stand_under_each_other(call: Call) -> None:
    *lines, _ = call("recipe", "show", "cpu").out.strip().splitlines()
    origins = {"default", "cpu.yaml"}
    assert len({len(line) - len(line.rsplit(maxsplit=1)[1]) for line in lines}) == 1
    assert {line.rsplit(maxsplit=1)[1] for line in lines} == origins


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fast"], ["fast", "cpu, cpu-224, gpu"]),
        (["cpu", "--set", "train.num_step=1"], ["train.num_step", "Did you mean train.num_steps"]),
        (["cpu", "--set", "seed=-1"], ["seed"]),
    ],
)
def test_a_wrong_name_or_key_exits_2_and_prints_nothing(
    call: Call, arguments: list[str], words: list[str]
) -> None:
    done = call("recipe", "show", *arguments)
    assert (done.code, done.out) == (2, "")
    assert all(word in done.err for word in words)


def test_a_reader_that_stops_early_causes_no_message() -> None:
    process = spawn("recipe", "show", "cpu")
    assert process.stdout is not None
    assert process.stderr is not None
    # The pipe is closed before anything was written: the interpreter takes longer to start.
    process.stdout.close()
    err = process.stderr.read()
    process.wait()
    process.stderr.close()
    assert err == ""
