"""Recipes: every setting of a whole run in one frozen model, read from YAML and from `--set` overrides."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError

from pipeline.config import Settings, first_problem
from pipeline.edit.settings import EditSettings
from pipeline.errors import RecipeError
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.study.settings import StudySettings
from pipeline.ingest.settings import IngestSettings
from pipeline.plain_yaml import PlainLoader, yaml_problem
from pipeline.privacy.settings import AuditSettings
from pipeline.release.settings import ReleaseSettings
from pipeline.sample.settings import SampleSettings
from pipeline.storage import write_text
from pipeline.train.settings import TrainSettings

RECIPE_NAME = "recipe.yaml"
DEFAULT_RECIPE = "cpu"
RECIPE_FOLDER = Path(__file__).resolve().parent.parent / "flows" / "recipes"
MAX_RECIPE_BYTES = 2**20

_MIRRORED = "a mirrored chest has its heart on the wrong side"
REMOVED = {
    "train.horizontal_flip": _MIRRORED,
    "train.augment_mirror": _MIRRORED,
    "train.loss_weighting": "weights that were learned made classifiers trained on the images worse",
    "train.latent.gradient_clip": "it is always 1",
    "evaluate.encoder_seed": "it is always 0, so that runs are comparable",
}
"""Key of earlier versions -> reason for its removal."""


class Recipe(Settings):
    """All settings of a run: one section per stage, defined by that stage, and the run seed.

    A recipe file has only the values that differ from the defaults.
    """

    seed: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="run seed: training, candidate seeds, audit and evaluation derive theirs from it",
    )
    ingest: IngestSettings = Field(default_factory=IngestSettings, description="pixels and splits")
    train: TrainSettings = Field(default_factory=TrainSettings, description="denoiser and optimiser")
    sample: SampleSettings = Field(default_factory=SampleSettings, description="sampler and counts")
    edit: EditSettings = Field(default_factory=EditSettings, description="edits of scans or candidates")
    audit: AuditSettings = Field(default_factory=AuditSettings, description="privacy gate")
    release: ReleaseSettings = Field(default_factory=ReleaseSettings, description="formats and gate policy")
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings, description="fidelity and utility")
    study: StudySettings = Field(default_factory=StudySettings, description="experiments of a study")


_BOOL = "tag:yaml.org,2002:bool"


class _RecipeLoader(PlainLoader):
    """Only true and false are truth values, as in YAML 1.2.

    `off` is a choice of several settings, and `no` may be a class. A setting that is true or false takes yes,
    no, on and off too.
    """


_RecipeLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_RecipeLoader.add_implicit_resolver(_BOOL, re.compile("(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with Phosphor."""
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*.yaml"))


def load_recipe(name_or_path: str | Path = DEFAULT_RECIPE, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe and apply overrides on top of it.

    Args:
        name_or_path: a name from `recipe_names()`, or the path of a YAML file.
        overrides: `section.key=value` each; the value is read as YAML, later ones win.

    Returns:
        The resolved recipe with every default filled in.

    Raises:
        RecipeError: no such recipe, not YAML, an unknown key, or a value out of range.
    """
    body = _read(_locate(name_or_path))
    for override in overrides:
        _apply(body, override)
    return resolve_recipe(body)


def recipe_origins(name_or_path: str | Path, overrides: Iterable[str] = ()) -> dict[str, str]:
    """Return the origin of the value of every key of a recipe.

    Args:
        name_or_path: as for `load_recipe`, which has accepted it.
        overrides: as for `load_recipe`, which has accepted them.

    Returns:
        Dotted key (without the sections themselves) -> `default`, `--set`, or the name of the recipe's file.
    """
    path = _locate(name_or_path)
    body = _read(path)
    changed = []
    for override in overrides:
        _apply(body, override)
        changed.append(override.partition("=")[0].strip())
    origins = {}
    for key in leaf_keys():
        if not _stands_in(body, key.split(".")):
            origins[key] = "default"
        elif any(f"{key}.".startswith(f"{one}.") or one.startswith(f"{key}.") for one in changed):
            origins[key] = "--set"
        else:
            origins[key] = path.name
    return origins


def resolve_recipe(body: Mapping[str, Any]) -> Recipe:
    """Validate a mapping of recipe keys.

    Raises:
        RecipeError: an unknown key (the message names the nearest known one) or a value out of range.
    """
    try:
        return Recipe.model_validate(dict(body))
    except ValidationError as error:
        keys = {".".join(map(str, entry["loc"])): entry["type"] for entry in error.errors()}
        removed = [key for key, kind in keys.items() if kind == "extra_forbidden" and key in REMOVED]
        if removed:
            raise RecipeError(
                f"this key was removed: {REMOVED[removed[0]]}",
                field=removed[0],
                remedy=f"Take {', '.join(removed)} out of the recipe.",
            ) from error
        field, problem, value = first_problem(error)
        if error.errors()[0]["type"] == "extra_forbidden":
            raise RecipeError("unknown key", field=field, remedy=_nearest(field)) from error
        raise RecipeError(
            problem, field=field, value=value, remedy="Correct it in the recipe or with --set."
        ) from error


def recipe_text(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML, its digest in the first line as a comment."""
    body = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return f"# Resolved recipe, every default filled in. digest: {recipe.digest()}\n{body}"


def write_recipe(folder: Path, recipe: Recipe) -> Path:
    """Write `recipe.yaml` (resolved, with its digest) into a finished output folder; return its path."""
    path = folder / RECIPE_NAME
    write_text(path, recipe_text(recipe), private=True)
    return path


def keep_recipe(folder: Path, recipe: Recipe) -> None:
    """Write `recipe.yaml` into an output folder, unless the folder already has its recipe."""
    if not (folder / RECIPE_NAME).exists():
        write_recipe(folder, recipe)


def public_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe and its digest for a release's provenance, without paths of the user's machine."""
    body = recipe.model_dump(mode="json")
    body["ingest"].pop("private_map", None)
    body["train"].pop("init_from", None)
    body["audit"].pop("earlier_releases", None)
    # A mask file may be named after a patient.
    body["edit"].pop("mask", None)
    return {"recipe": body, "recipe_digest": recipe.digest()}


def _locate(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if text in recipe_names():
        return RECIPE_FOLDER / f"{text}.yaml"
    path = Path(text)
    if path.is_file():
        return path
    raise RecipeError(
        "no recipe of this name and no such file",
        field="--recipe",
        value=text,
        remedy=f"Choose {', '.join(recipe_names())}, or the path of a YAML file.",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise RecipeError("the file is larger than 1 MiB", field="--recipe", remedy="Name a recipe file.")
        # _RecipeLoader derives from SafeLoader: it builds plain values only.
        body = yaml.load(path.read_text(encoding="utf-8"), Loader=_RecipeLoader)  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(
            f"not a YAML recipe: {yaml_problem(error)}", field="--recipe", remedy="Correct the file."
        ) from error
    except OSError as error:
        raise RecipeError("cannot be read", field="--recipe", remedy="Check its permissions.") from error
    if body is None:
        return {}
    if not isinstance(body, dict) or not all(isinstance(key, str) for key in body):
        raise RecipeError(
            "a recipe is a mapping of section names", field="--recipe", remedy="See flows/recipes."
        )
    return body


def _apply(body: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(
            "an override has the form key=value",
            field="--set",
            value=override,
            remedy="Example: --set train.num_steps=200.",
        )
    try:
        value = yaml.load(text, Loader=_RecipeLoader)  # noqa: S506
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(
            f"the value is not YAML: {yaml_problem(error)}",
            field=f"--set {key}",
            value=text,
            remedy="Quote it.",
        ) from error
    target = body
    for part in parts[:-1]:
        inner = target.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RecipeError(
                f"{part} is not a section", field=f"--set {key}", value=override, remedy=_nearest(key)
            )
        target = inner
    target[parts[-1]] = value


def _nearest(field: str) -> str:
    """Return a sentence that suggests the known key nearest to an unknown dotted key."""
    known = list(known_keys())
    by_leaf = {key.rsplit(".", 1)[-1]: key for key in known}
    close = difflib.get_close_matches(field, known, n=1, cutoff=0.6)
    if not close:
        leaf = difflib.get_close_matches(field.rsplit(".", 1)[-1], by_leaf, n=1, cutoff=0.6)
        close = [by_leaf[name] for name in leaf]
    if close:
        return f"Did you mean {close[0]}?"
    section = field.split(".", maxsplit=1)[0]
    choices = [key for key in known if key.startswith(section + ".")] or list(Recipe.model_fields)
    return f"Known keys: {', '.join(choices)}."


def _stands_in(body: Any, parts: list[str]) -> bool:
    """Return whether nested mappings hold a key of these parts."""
    for part in parts:
        if not isinstance(body, dict) or part not in body:
            return False
        body = body[part]
    return True


def leaf_keys() -> list[str]:
    """Return every key of a recipe that holds a value, in dotted form; sections are left out."""
    known = list(known_keys())
    return [key for key in known if not any(other.startswith(f"{key}.") for other in known)]


def known_keys() -> Iterable[str]:
    """Yield every key of a recipe in dotted form, sections before their keys."""
    yield from _keys_of(Recipe, "")


def _keys_of(model: type[BaseModel], prefix: str) -> Iterable[str]:
    for name, info in model.model_fields.items():
        yield prefix + name
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _keys_of(inner, f"{prefix}{name}.")
