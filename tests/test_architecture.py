"""The house rules that a machine can hold: who imports whom, how long a file is, what is documented."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("models", "pipeline", "flows")
FORBIDDEN = {
    "models": {"pipeline", "flows", "pydicom", "prefect", "pandas"},
    "pipeline": {"flows", "prefect"},
    "flows": set(),
}
STAGES = {
    "ingest": ("pipeline.ingest", "pipeline.sources"),
    "train": ("pipeline.train",),
    "sample": ("pipeline.sample",),
    "edit": ("pipeline.edit",),
    "privacy": ("pipeline.privacy",),
    "release": ("pipeline.release",),
    "evaluate": ("pipeline.evaluate",),
}
MAX_LINES = 400
MAX_FILES = 20
"""Python files of one folder: more, and a reader no longer sees what is in it."""

LAYERS = (
    ("arrays", "errors", "progress", "records", "scan_attributes"),
    ("config", "storage", "locking", "replacing", "append_log", "plain_yaml", "stage", "identity"),
    ("distributed",),
    ("artifacts",),
    ("wording", "rendering", "cost"),
    ("phantom",),
    ("manifest",),
    ("sources",),
    ("residual",),
    (
        "ingest",
        "train",
        "sample",
        "edit",
        "privacy",
        "release",
        "evaluate",
        "recipe",
        "settings_page",
    ),
    ("report",),
)
"""Rooms and files of `pipeline` from the ground up: each imports what stands before it, or beside it."""


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Return every absolute module name that a file imports anywhere, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = path.relative_to(ROOT).with_suffix("").parts[: -node.level]
                base = ".".join([*parents, *([base] if base else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_never_imports_what_the_house_forbids_it(package: str) -> None:
    broken = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(package)
        for name in imports(path)
        if any(inside(name, other) for other in FORBIDDEN[package])
    ]
    assert modules(package)
    assert broken == []


def test_the_import_parser_sees_imports_inside_functions_and_relative_ones(tmp_path: Path) -> None:
    folder = ROOT / "pipeline" / "train"
    source = "def f():\n    from prefect import flow\n    import pipeline.release.settings as s\n"
    path = tmp_path / "module.py"
    path.write_text(source)
    assert {"prefect", "pipeline.release.settings"} <= imports(path)
    assert any(inside(name, "pipeline.config") for name in imports(folder / "settings.py"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_never_imports_another_stage(stage: str) -> None:
    others = [package for name, packages in STAGES.items() if name != stage for package in packages]
    files = [path for package in STAGES[stage] for path in (ROOT / package.replace(".", "/")).rglob("*.py")]
    broken = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in imports(path)
        if any(inside(name, other) for other in others)
    ]
    assert files
    assert broken == []


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_an_entry_settings_and_a_plan_of_the_same_names(stage: str) -> None:
    verb = "audit" if stage == "privacy" else stage
    for file, name in (("stage", f"run_{verb}"), ("plan", f"plan_{verb}")):
        path = ROOT / "pipeline" / stage / f"{file}.py"
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert name in {node.name for node in body if isinstance(node, ast.FunctionDef)}, path
    assert (ROOT / "pipeline" / stage / "settings.py").is_file()
    assert callable(getattr(importlib.import_module(f"pipeline.{stage}"), f"run_{verb}"))


def test_the_package_of_a_stage_loads_no_torch() -> None:
    names = ", ".join(f"pipeline.{stage}" for stage in STAGES)
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def graph() -> dict[str, set[str]]:
    """Return which modules of the three packages each of them imports, wherever the import stands."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in modules(package)
    }
    return {
        name: {other for other in imports(path) if other in paths} - {name} for name, path in paths.items()
    }


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of nodes of which each reaches every other one."""
    names = sorted(arrows)
    number = {name: index for index, name in enumerate(names)}
    pairs = [(number[name], number[other]) for name, others in arrows.items() for other in others]
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    matrix = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(len(names), len(names)))
    _, found = connected_components(matrix.tocsr(), connection="strong")
    groups = [[name for name in names if found[number[name]] == group] for group in set(found)]
    return sorted(group for group in groups if len(group) > 1)


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [["b", "c"]]


def test_no_files_import_each_other_in_a_circle() -> None:
    # A package stands for what its `__init__` imports: a file inside that imports the package is no circle.
    files = {name: others for name, others in graph().items() if not (ROOT / name.replace(".", "/")).is_dir()}
    within = {name: {other for other in others if other in files} for name, others in files.items()}
    assert len(within) > 300
    assert circles(within) == []


def test_a_room_of_pipeline_imports_only_what_stands_below_it() -> None:
    rank = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
    there = {path.stem for path in (ROOT / "pipeline").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert there - {"__init__", "__pycache__", "py"} == set(rank)
    broken = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in others
        if name.startswith("pipeline.") and other.startswith("pipeline.")
        if rank[other.split(".")[1]] > rank[name.split(".")[1]]
    ]
    assert broken == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_holds_more_files_than_a_reader_sees_at_once(package: str) -> None:
    folders = {path.parent for path in modules(package)}
    counts = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > MAX_FILES} == {}


def test_importing_pipeline_and_models_loads_nothing_heavy() -> None:
    heavy = ("prefect", "pydicom", "nibabel", "dask", "distributed", "matplotlib", "sklearn", "pandas")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import pipeline, models"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert {"pipeline", "models"} <= loaded
    assert sorted(name for name in loaded if name.split(".")[0] in heavy) == []


def test_the_command_line_loads_no_numerical_library_before_a_command_runs() -> None:
    code = (
        "import sys, flows.cli.app\n"
        "heavy = {'torch', 'monai', 'prefect', 'pandas', 'numpy', 'pydicom', 'matplotlib'}\n"
        "sys.stdout.write(' '.join(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == ""


@pytest.mark.parametrize("package", [*PACKAGES, "tests"])
def test_no_file_is_longer_than_the_house_allows(package: str) -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in modules(package)}
    assert {path: count for path, count in lengths.items() if count > MAX_LINES} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_opens_with_one_line_that_says_what_it_is_for(package: str) -> None:
    bare = []
    for path in modules(package):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        if not docstring or not docstring.splitlines()[0].endswith((".", ":", "?")):
            bare.append(str(path.relative_to(ROOT)))
    assert bare == []


def test_no_module_is_called_utils_helpers_or_common() -> None:
    names = {path.stem for package in PACKAGES for path in modules(package)}
    names |= {path.parent.name for package in PACKAGES for path in modules(package)}
    assert names & {"utils", "util", "helpers", "helper", "common", "misc"} == set()


def test_nothing_unpickles_or_loads_unsafely() -> None:
    pattern = re.compile(
        r"torch\.load\(|pickle\.loads?\(|allow_pickle=True|yaml\.(full_load|unsafe_load)\(|joblib\.load\("
    )
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for package in PACKAGES
        for path in modules(package)
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_every_command_is_documented_with_a_runnable_example() -> None:
    from flows.cli.app import app

    commands = {
        command.callback.__name__: command.callback.__doc__ or ""
        for command in app.registered_commands
        if command.callback
    }
    for group in app.registered_groups:
        for command in group.typer_instance.registered_commands if group.typer_instance else ():
            if command.callback:
                commands[f"{group.name} {command.callback.__name__}"] = command.callback.__doc__ or ""
    assert set(commands) == {
        "run", "ingest", "train", "sample", "edit", "audit", "release", "evaluate", "verify", "validate",
        "doctor", "deploy", "recipe show", "study",
    }  # fmt: skip
    for name, text in commands.items():
        assert re.search(rf"Example:\n\s+phosphor {name}\b", text), name


def test_every_setting_of_a_recipe_is_described() -> None:
    from pydantic import BaseModel

    from pipeline.recipe import Recipe

    bare: list[str] = []

    def walk(model: type[BaseModel], prefix: str) -> None:
        for name, info in model.model_fields.items():
            if not info.description:
                bare.append(prefix + name)
            if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
                walk(info.annotation, f"{prefix}{name}.")

    walk(Recipe, "")
    assert bare == []
