"""The documents: every link, command, module, file and setting that they show exists under that name."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from flows.cli.app import app
from pipeline.recipe import Recipe, known_keys, leaf_keys, load_recipe
from pipeline.settings_page import page

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "data_manifests" / "README.md",
    ROOT / "tests" / "experiments" / "README.md",
]
NOTEBOOK = ROOT / "docs" / "tour.ipynb"
FOLDERS = ("models", "pipeline", "flows", "tests", "docs", "data_manifests")
SECTIONS = [name for name in known_keys() if "." not in name and name not in leaf_keys()]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: str) -> list[str]:
    """Return the lines of all indented and fenced code blocks, continued lines joined, comments cut off."""
    lines, fenced = [], False
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            lines.append(re.split(r"(?:^|\s)#\s", line.strip())[0].strip())
    return lines


def prose(text: str) -> str:
    """Return a text without its code blocks."""
    kept, fenced = [], False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith("    "):
            kept.append(line)
    return "\n".join(kept)


def spans(text: str) -> list[str]:
    """Return all inline code, each on one line."""
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", prose(text))]


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", prose(text), flags=re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while (anchor := f"{plain}-{number}" if number else plain) in found:
            number += 1
        found.add(anchor)
    return found


def links(text: str) -> list[str]:
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)) if "://" not in target]


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that words call, and the words left for it; the group where they name none."""
    found: Any = typer.main.get_command(app)
    while words and hasattr(found, "commands") and words[0] in found.commands:
        found, words = found.commands[words[0]], words[1:]
    return found, words


def shown_calls(line: str) -> list[str]:
    """Return what follows `phosphor` in a line: one call, or one for each of `a | b | c`.

    What stands two spaces away explains the call.
    """
    match = re.match(r"(?:(?:[A-Z_]+=\S+ )*phosphor|torchrun .*?-m flows) (.+)", line)
    if match is None:
        return []
    call = re.split(r"\s{2,}", match.group(1))[0]
    choice = re.fullmatch(r"\w+(?: \| \w+)+", call)
    return call.split(" | ") if choice else [call]


def problem_of(call: str, *, whole: bool) -> str:
    """Say what of a call does not exist; empty if nothing. A whole one must also have all that it needs."""
    words = shlex.split(re.sub(r"[\[\]]", " ", call))
    command, rest = command_of(words)
    if hasattr(command, "commands"):
        return "no such command" if rest and not rest[0].startswith("-") else ""
    known = {option for parameter in command.params for option in parameter.opts}
    unknown = sorted({word.split("=")[0] for word in rest if word.startswith("--")} - known - {"--help"})
    if unknown:
        return f"no option {unknown}"
    if whole and "[" not in call and rest and "--help" not in rest:
        try:
            command.make_context(command.name, rest, resilient_parsing=False)
        except Exception as error:  # whatever the parser says is the finding
            return f"{type(error).__name__}: {getattr(error, 'message', error)}"
    return ""


def makefile() -> tuple[set[str], set[str]]:
    """Return the targets of the Makefile, its variables put in, and the names of all its variables."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    values = dict(re.findall(r"^(\w+) *[:?]?= *(.*)$", text, flags=re.MULTILINE))
    targets = set(re.findall(r"^([\w$().-]+):(?!=)", text, flags=re.MULTILINE))
    for _ in values:
        targets = {re.sub(r"\$\((\w+)\)", lambda found: values[found.group(1)], name) for name in targets}
    return targets, {*values, *re.findall(r"\$\((\w+)\)", text)}


def has_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    if name.split(".", maxsplit=1)[0] in FOLDERS:
        return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
    return importlib.util.find_spec(name.split(".", maxsplit=1)[0]) is not None


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    broken = []
    for target in links(text):
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if (
            not path.exists()
            or ROOT not in (path, *path.parents)
            or (anchor and anchor not in anchors(path.read_text(encoding="utf-8")))
        ):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_command_that_is_shown_exists_with_its_options(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    calls = [(call, True) for line in blocks(text) for call in shown_calls(line)]
    calls += [(call, False) for span in spans(text) for call in shown_calls(span)]
    wrong = {call: problem for call, whole in calls if (problem := problem_of(call, whole=whole))}
    assert wrong == {}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_make_target_that_is_shown_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets, variables = makefile()
    wrong = []
    for line in [*blocks(text), *spans(text)]:
        for call in re.findall(r"(?:^|\s)make ((?:[\w./-]+(?:=\S+)? ?)+)", line):
            for word in call.split():
                name, is_set, _ = word.partition("=")
                if name not in (variables if is_set else targets):
                    wrong.append(f"{line}: {word}")
    assert wrong == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_module_that_is_run_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    run = [name for line in [*blocks(text), *spans(text)] for name in re.findall(r"-m ([a-z][\w.]+)", line)]
    assert [name for name in run if not has_module(name)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_setting_that_is_named_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    named = re.compile(rf"((?:{'|'.join(SECTIONS)})\.[a-z_.]+)(?:=.*)?")
    keys = [match.group(1) for span in spans(text) if (match := named.fullmatch(span))]
    for line in [*blocks(text), *spans(text)]:
        keys += re.findall(r"--set '?([a-z][a-z_.]*)=", line)
    known = set(known_keys())
    # Below a setting that is a mapping, any name may stand; `study.json` is a file.
    wrong = [key for key in keys if key not in known and not key.startswith("sample.given.") and key != "key"]
    wrong = [key for key in wrong if not key.endswith((".html", ".csv", ".json"))]
    assert wrong == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_settings_that_are_shown_together_are_accepted_by_the_default_recipe(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for shown in [*spans(text), *blocks(text)]:
        found = [first or second for first, second in re.findall(r"--set (?:'([^']+)'|([^\s'`]+))", shown)]
        load_recipe("cpu", [override for override in found if override.lower() != "key=value"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_file_of_ours_that_is_named_exists(document: Path) -> None:
    named = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*")
    text = document.read_text(encoding="utf-8")
    paths = [span for span in spans(text) if named.fullmatch(span)]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_page_of_settings_is_what_the_classes_say() -> None:
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == page(), (
        "run: python -m pipeline.settings_page > docs/settings.md"
    )


def test_the_readme_is_short_and_opens_with_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 1000
    commands = blocks(text)
    assert [line.split("  ")[0] for line in commands[:2]] == ["make run", "make test"]
    assert text.index("    make run") < 20


def test_the_readme_leads_to_every_page() -> None:
    targets = {target.partition("#")[0] for target in links((ROOT / "README.md").read_text(encoding="utf-8"))}
    pages = {name_of(path) for path in DOCUMENTS if path.parent == ROOT / "docs"} | {"CONTRIBUTING.md"}
    assert pages - targets == set()


def test_pictures_are_small() -> None:
    pictures = [
        path for folder in ("docs/images", "data_manifests/previews") for path in (ROOT / folder).iterdir()
    ]
    assert pictures
    assert {name_of(path) for path in pictures if path.stat().st_size > 150_000} == set()


def test_what_is_wrong_in_a_document_is_found() -> None:
    """The readers above see what they are to hold: a test of a document without findings could be blind."""
    text = """# Top `x`, and more ...

See [here](#top-x-and-more-) and `phosphor nosuch` or `phosphor train
--nosuch`, `train.nosuch=3`, `make nosuch`.

    phosphor train --out DIR \\
        --recipe cpu  # no cohort
    A=1 phosphor ingest | nosuch   all of them
    torchrun --nproc-per-node 2 -m flows sample --out x
"""
    assert anchors(text) == {"top-x-and-more-"}
    assert links(text) == ["#top-x-and-more-"]
    assert spans(text)[1:] == ["phosphor nosuch", "phosphor train --nosuch", "train.nosuch=3", "make nosuch"]
    calls = [call for line in blocks(text) for call in shown_calls(line)]
    assert calls == ["train --out DIR --recipe cpu", "ingest", "nosuch", "sample --out x"]
    assert problem_of("nosuch", whole=True) == "no such command"
    assert problem_of("recipe nosuch", whole=True) == "no such command"
    assert problem_of("train --nosuch", whole=False) == "no option ['--nosuch']"
    assert problem_of("sample --out x", whole=True)
    assert problem_of("sample --out x", whole=False) == ""
    assert problem_of("sample c --out x --steps few", whole=True)
    assert problem_of("sample c --out x --steps 5 --recipe cpu", whole=True) == ""
    targets, variables = makefile()
    assert {"run", "test", "bench", ".venv/.installed"} <= targets
    assert {"OUT", "MINUTES", "PYTHON"} <= variables
    assert "nosuch" not in targets
    assert has_module("tests.experiments.benchmarks.gpu")
    assert not has_module("tests.experiments.benchmarks.nosuch")
    assert [name for name in Recipe.model_fields if name != "seed"] == SECTIONS


def notebook_cells(kind: str) -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def test_the_notebook_links_to_what_there_is_and_holds_its_results() -> None:
    for target in links("\n\n".join(notebook_cells("markdown"))):
        assert (NOTEBOOK.parent / target.partition("#")[0]).exists(), target
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "image/png" in text and "stderr" not in text


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    code = "import matplotlib\nmatplotlib.use('Agg')\n" + "\n".join(notebook_cells("code"))
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "synthetic arm that was best on val" in done.stdout
