"""Recipes: what they accept, how overrides apply, and how mistakes are explained."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RecipeError
from pipeline.recipe import (
    RECIPE_FOLDER,
    REMOVED,
    Recipe,
    keep_recipe,
    known_keys,
    load_recipe,
    public_recipe,
    recipe_names,
    recipe_text,
    write_recipe,
)
from pipeline.records import Policy


def test_the_shipped_recipes_load_and_gate_as_documented() -> None:
    assert recipe_names() == ["cpu", "cpu-224", "gpu", "gpu-256", "gpu-512", "smoke", "study"]
    policies = {name: load_recipe(name).release.policy for name in recipe_names()}
    # A study releases nothing: its recipe leaves the policy as it is.
    assert policies == {
        "cpu": Policy.RESEARCH,
        "cpu-224": Policy.STRICT,
        "gpu": Policy.STRICT,
        "gpu-256": Policy.STRICT,
        "gpu-512": Policy.STRICT,
        "smoke": Policy.RESEARCH,
        "study": Policy.STRICT,
    }


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_file_holds_only_what_differs_from_the_defaults(name: str) -> None:
    body = yaml.safe_load((RECIPE_FOLDER / f"{name}.yaml").read_text())
    defaults = Recipe().model_dump(mode="json")
    same = [
        f"{section}.{key}"
        for section, values in body.items()
        if isinstance(values, dict)
        for key, value in values.items()
        # The gate policy is said outright even where it is the default: people look for it.
        if value == defaults[section][key] and key != "policy"
    ]
    assert same == []


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_file_says_of_every_key_why_it_is_set(name: str) -> None:
    lines = (RECIPE_FOLDER / f"{name}.yaml").read_text().splitlines()
    keys = [number for number, line in enumerate(lines) if line.startswith("  ") and line.strip()[0] != "#"]
    bare = [lines[n] for n in keys if "  # " not in lines[n] and not lines[n - 1].startswith("  # ")]
    assert keys
    assert bare == []


def test_overrides_are_read_as_yaml_and_the_last_one_wins() -> None:
    recipe = load_recipe(
        "smoke", ["train.num_steps=7", "train.num_steps=9", "evaluate.ratios=[1.0]", "seed=3"]
    )
    assert (recipe.train.num_steps, recipe.evaluate.ratios, recipe.seed) == (9, (1.0,), 3)
    assert recipe.ingest == load_recipe("smoke").ingest


def test_an_override_changes_the_digest_and_the_same_recipe_has_the_same_digest() -> None:
    assert load_recipe("smoke").digest() == load_recipe("smoke").digest()
    assert load_recipe("smoke").digest() != load_recipe("smoke", ["seed=1"]).digest()


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("train.num_step=5", "train.num_steps"),
        ("trian.num_steps=5", "train"),
        ("num_steps=5", "num_steps"),
        ("sample.per_clas=5", "sample.per_class"),
        ("seeds=5", "seed"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(override: str, near: str) -> None:
    with pytest.raises(RecipeError, match=f"unknown key.*Did you mean .*{near}"):
        load_recipe("smoke", [override])


def test_a_key_like_no_other_is_refused_with_the_list_of_keys() -> None:
    with pytest.raises(RecipeError, match=r"release\.zzzzzzzzzz: unknown key.*release\.policy"):
        load_recipe("smoke", ["release.zzzzzzzzzz=1"])


def test_keys_of_an_earlier_version_are_refused_together_and_said_to_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("train: {num_steps: 5, loss_weighting: edm, horizontal_flip: false, wrong: 1}\n")
    with pytest.raises(RecipeError, match="this key was removed") as caught:
        load_recipe(path)
    assert {"train.loss_weighting", "train.horizontal_flip"} == set(
        caught.value.remedy.removeprefix("Take ").removesuffix(" out of the recipe.").split(", ")
    )
    assert caught.value.field in REMOVED and caught.value.exit_code == 2
    assert not REMOVED.keys() & set(known_keys())


@pytest.mark.parametrize("override", ["train.num_steps", "=3", "train..num_steps=3", ".=1"])
def test_an_override_without_the_form_key_equals_value_is_refused(override: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        load_recipe("smoke", [override])


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("train.num_steps=0", "train.num_steps"),
        ("train.num_steps=many", "train.num_steps"),
        ("release.policy=lax", "release.policy"),
        ("seed=-1", "seed"),
        ("train.learning_rate=.nan", "train.learning_rate"),
    ],
)
def test_a_value_out_of_range_names_its_field(override: str, field: str) -> None:
    with pytest.raises(RecipeError, match=field) as caught:
        load_recipe("smoke", [override])
    assert caught.value.exit_code == 2


def test_an_override_below_a_plain_value_is_refused() -> None:
    with pytest.raises(RecipeError, match="not a section"):
        load_recipe("smoke", ["train.num_steps.more=1"])


@pytest.mark.parametrize(
    "text",
    [
        "train: &a {num_steps: 5}\nsample: *a\n",
        "seed: 1\nseed: 2\n",
        "- 1\n",
        "train: {num_steps: [\n",
        "seed: !!python/object/apply:os.system ['true']\n",
        "1: 2\n",
        "[" * 5000,
    ],
    ids=["alias", "repeated-key", "list", "not-yaml", "python-tag", "number-key", "deep"],
)
def test_hostile_or_broken_recipe_files_are_refused_in_one_message(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError):
        load_recipe(path)


def test_a_file_that_is_too_large_or_missing_or_not_text_is_refused(tmp_path: Path) -> None:
    large, binary = tmp_path / "large.yaml", tmp_path / "binary.yaml"
    large.write_text("# " + "x" * 2**20)
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (large, binary, tmp_path / "missing.yaml"):
        with pytest.raises(RecipeError, match="--recipe"):
            load_recipe(path)


def test_an_empty_file_is_the_default_recipe(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("")
    assert load_recipe(path) == Recipe()


def test_the_written_recipe_reads_back_as_the_same_recipe(tmp_path: Path) -> None:
    recipe = load_recipe("smoke", ["seed=11", "train.learning_rate=0.0005"])
    path = write_recipe(tmp_path, recipe)
    assert load_recipe(path) == recipe
    assert recipe.digest() in path.read_text().splitlines()[0]
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_recipe_that_made_an_output_is_kept(tmp_path: Path) -> None:
    first, second = load_recipe("smoke"), load_recipe("smoke", ["evaluate.seeds=3"])
    keep_recipe(tmp_path, first)
    keep_recipe(tmp_path, second)
    assert load_recipe(tmp_path / "recipe.yaml") == first


def test_the_public_recipe_names_no_path_of_the_machine(tmp_path: Path) -> None:
    recipe = load_recipe("smoke", [f"ingest.private_map={tmp_path}/map.csv"])
    assert str(tmp_path) in recipe_text(recipe)
    assert str(tmp_path) not in str(public_recipe(recipe))
    assert public_recipe(recipe)["recipe_digest"] == recipe.digest()


@given(st.integers(min_value=1, max_value=10**8), st.integers(min_value=0, max_value=2**62))
def test_any_valid_number_given_by_override_arrives(num_steps: int, seed: int) -> None:
    recipe = load_recipe("smoke", [f"train.num_steps={num_steps}", f"seed={seed}"])
    assert (recipe.train.num_steps, recipe.seed) == (num_steps, seed)


def test_every_known_key_can_be_named_in_an_override() -> None:
    leaves = [key for key in known_keys() if "." in key]
    dump = Recipe().model_dump(mode="json")
    assert len(leaves) > 30
    for key in leaves:
        inner = functools.reduce(lambda body, name: body[name], key.split("."), dump)
        value = yaml.safe_dump(inner, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
        assert load_recipe("cpu", [f"{key}={value}"])


def test_off_is_a_choice_and_no_a_class_while_a_switch_still_takes_both(tmp_path: Path) -> None:
    written = (
        "ingest: {burned_in_text: off, strict: yes}\nsample: {guidance_away_from: no, guidance_scale: 2}\n"
    )
    (tmp_path / "r.yaml").write_text(written)
    recipe = load_recipe(tmp_path / "r.yaml", ["ingest.near_duplicates=off", "train.latent.enabled=on"])
    assert (recipe.ingest.burned_in_text, recipe.ingest.near_duplicates) == ("off", "off")
    assert (recipe.ingest.strict, recipe.train.latent.enabled) == (True, True)
    assert recipe.sample.guidance_away_from == "no"
    assert load_recipe("smoke", ["ingest.strict=no"]).ingest.strict is False
    (tmp_path / "again.yaml").write_text(recipe_text(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe
