"""The same outputs on Windows: nothing that only POSIX has, POSIX names and LF in every file."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.windows import KEPT, MODULES, ONLY_POSIX, SIGNALS

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("models", "pipeline", "flows")
GUARDED = {
    "models/__init__.py uses os.getuid",
    "pipeline/cost/memory.py imports resource",
}
"""What is tried first where it is there, and has something else in its place where it is not."""


def calls_and_imports() -> Iterator[tuple[str, ast.AST]]:
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                yield path.relative_to(REPOSITORY).as_posix(), node


def only_posix(node: ast.AST) -> list[str]:
    """Return what a piece of a program uses that Windows lacks."""
    if isinstance(node, ast.Import):
        return [f"imports {alias.name}" for alias in node.names if alias.name in MODULES]
    if isinstance(node, ast.ImportFrom) and node.module in MODULES:
        return [f"imports {node.module}"]
    if isinstance(node, ast.ImportFrom):
        taken = [(node.module or "", alias.name) for alias in node.names]
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        taken = [(node.value.id, node.attr)]
    else:
        return []
    return [f"uses {module}.{name}" for module, name in taken if not on_windows(module, name)]


def on_windows(module: str, name: str) -> bool:
    if module == "os":
        return not ONLY_POSIX.match(name) or bool(KEPT.match(name))
    return module != "signal" or bool(SIGNALS.match(name))


def test_no_module_uses_what_only_posix_has() -> None:
    assert {f"{file} {use}" for file, node in calls_and_imports() for use in only_posix(node)} == GUARDED


def test_a_text_file_is_written_with_the_same_bytes_on_every_system() -> None:
    """The default encoding of a text file, and the ends of its lines, differ from system to system."""
    vague = []
    for file, node in calls_and_imports():
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        given = {keyword.arg for keyword in node.keywords}
        mode = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
        opened = node.func.attr == "open" and mode in {"w", "a", "x"}
        if (opened or node.func.attr == "write_text") and not {"encoding", "newline"} <= given:
            vague.append(f"{file}:{node.lineno}")
        if node.func.attr == "read_text" and "encoding" not in given:
            vague.append(f"{file}:{node.lineno}")
    assert vague == []


def run(out: Path, *arguments: str) -> Any:
    """Run every stage on a tiny phantom cohort, with a key and a cache of its own; return the digests."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PHOSPHOR_KEY": "5e" * 32,
        "PHOSPHOR_CACHE": str(out.with_name(f"{out.name}-cache")),
    }
    command = [sys.executable, "-m", "tests.windows", str(out), *arguments]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Return the folder and digests of all stages, run where there is no more than Windows has."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("only Linux tells which files are open")
    folder = tmp_path_factory.mktemp("poor") / "out"
    return folder, run(folder, "--pretend")


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_every_stage_runs_where_there_is_no_more_than_windows_has(poor: tuple[Path, Any]) -> None:
    """All modules are imported and all stages run twice, then the cohort is replaced by force."""
    folder, digests = poor
    assert list(digests) == ["cohort", "checkpoint", "candidates", "audit", "release", "evaluation"]
    names = files(folder.parent)
    assert not any("previous" in name or "partial" in name for name in names)
    texts = [name for name in names if Path(name).suffix in {".csv", ".html", ".json", ".jsonl", ".md"}]
    assert {Path(name).name for name in texts} >= {"metadata.csv", "labels.csv", "DATASET_CARD.md"}
    assert [name for name in texts if b"\r\n" in (folder.parent / name).read_bytes()] == []


@pytest.mark.slow
def test_the_outputs_are_the_same_as_with_all_that_linux_has(poor: tuple[Path, Any], tmp_path: Path) -> None:
    assert run(tmp_path / "out") == poor[1]
    assert files(tmp_path) == files(poor[0].parent)
