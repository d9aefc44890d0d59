"""The page of settings: every key of the classes, with the bounds that the classes hold."""

from __future__ import annotations

import re

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pipeline.recipe import Recipe, leaf_keys, load_recipe
from pipeline.settings_page import as_yaml, leaf_values, page, sections

SETTINGS = {setting.key: setting for section in sections() for setting in section.settings}


def test_every_key_stands_on_the_page_once_and_in_a_section_of_its_own() -> None:
    assert sorted(SETTINGS) == sorted(leaf_keys())
    rows = re.findall(r"^\| `([a-z_.]+)` \|", page(), flags=re.MULTILINE)
    assert rows == list(SETTINGS)
    for section in sections():
        assert {setting.key.rpartition(".")[0] for setting in section.settings} == {section.name}


def test_a_default_is_what_the_class_holds_and_can_be_set_as_it_is_printed() -> None:
    values = leaf_values(Recipe())
    assert {key: setting.default for key, setting in SETTINGS.items()} == values
    assert load_recipe("smoke", [f"{key}={value}" for key, value in values.items()]) == Recipe()


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("seed", "whole number, 0 or more, below 2^63"),
        ("train.num_steps", "whole number, 1 to 100,000,000"),
        ("train.learning_rate", "number above 0, up to 1"),
        ("train.max_minutes", "number above 0, up to 1,000,000; or `null`"),
        ("audit.false_reject_budget", "number above 0, below 0.5"),
        ("audit.embedding_steps", "whole number, 1 or more"),
        ("release.policy", "`strict` or `research`"),
        ("ingest.bit_depth", "`8` or `16`"),
        ("ingest.percentiles", "list of 2; each: number"),
        ("train.stop_when_memorising", "`true` or `false`"),
        ("train.init_from", "path; or `null`"),
        ("train.ema_lengths", "list; each: number, 0.005 to 0.28"),
        ("edit.mask", "list of 4; each: number; or text; or `null`"),
        ("sample.given", "mapping; each value: text; or list; each: text"),
    ],
)
def test_the_values_that_a_setting_takes_are_said_in_words(key: str, values: str) -> None:
    assert SETTINGS[key].values == values


def test_every_bound_of_the_classes_is_on_the_page() -> None:
    """Walks the classes by another way than the page does."""

    def walk(model: type[BaseModel], prefix: str) -> None:
        for name, info in model.model_fields.items():
            if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
                walk(info.annotation, f"{prefix}{name}.")
                continue
            for bound in info.metadata:
                for kind in ("ge", "gt", "le", "lt"):
                    number = getattr(bound, kind, PydanticUndefined)
                    if number is not PydanticUndefined and number != 2**63:
                        assert f"{number:,}" in SETTINGS[prefix + name].values, f"{prefix}{name} {kind}"

    walk(Recipe, "")


def test_every_description_is_a_sentence_in_one_row() -> None:
    for setting in SETTINGS.values():
        assert setting.description.endswith(".")
        assert "\n" not in setting.description
        opening = setting.description[0]
        assert not opening.islower() or f"`{setting.description.split()[0]}`" in setting.values, setting
    assert SETTINGS["train.optimizer"].description.startswith("muon updates")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        ("off", "'off'"),
        ([0.5, 1.0], "[0.5, 1.0]"),
        ({"sex": "F"}, "{sex: F}"),
        (True, "true"),
    ],
)
def test_values_are_printed_as_yaml_on_one_line(value: object, text: str) -> None:
    assert as_yaml(value) == text
    assert as_yaml(list(range(200))).count("\n") == 0
