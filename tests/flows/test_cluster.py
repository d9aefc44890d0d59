"""The cluster templates parse, and name only commands, options, recipes and settings that exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from flows.cli.app import app
from pipeline.distributed.process_group import place_of_process
from pipeline.recipe import load_recipe, recipe_names

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "flows" / "cluster"
SLURM, KUBERNETES = FOLDER / "slurm.sbatch", FOLDER / "kubernetes.yaml"


def commands(text: str) -> list[list[str]]:
    """Return the words of every `phosphor` command of a shell script, its continued lines joined."""
    lines = text.replace("\\\n", " ").splitlines()
    found = [re.search(r"\bphosphor ((?:train|sample|audit) .*)", line) for line in lines]
    return [shlex.split(match.group(1)) for match in found if match]


def kubernetes() -> tuple[dict[str, Any], dict[str, Any]]:
    service, job = yaml.safe_load_all(KUBERNETES.read_text(encoding="utf-8"))
    return service, job


def scripts() -> dict[str, str]:
    _, job = kubernetes()
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return {"slurm": SLURM.read_text(encoding="utf-8"), "kubernetes": container["args"][0]}


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_every_command_option_recipe_and_setting_exists(name: str) -> None:
    found = commands(scripts()[name])
    assert [words[0] for words in found] == (["train", "sample", "audit"] if name == "slurm" else ["train"])
    group = typer.main.get_command(app)
    for verb, *words in found:
        command = group.commands[verb]  # type: ignore[attr-defined]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
        recipe = words[words.index("--recipe") + 1]
        assert recipe in recipe_names()
        overrides = [after for word, after in pairwise(words) if word == "--set"]
        settings = load_recipe(recipe, overrides)
        if verb == "train":
            assert settings.train.max_minutes is not None


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is missing: apt-get install bash")
@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_the_scripts_are_bash(name: str) -> None:
    done = subprocess.run(["bash", "-n"], input=scripts()[name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is missing: apt-get install bash")
def test_slurm_gives_every_process_its_place(tmp_path: Path) -> None:
    """The script runs with a `srun` that starts what Slurm would and a `phosphor` that shows its place."""
    (tmp_path / "phosphor" / "bin").mkdir(parents=True)
    (tmp_path / "programs").mkdir()
    (tmp_path / "phosphor" / "bin" / "activate").write_text(f'PATH="{tmp_path}/programs:$PATH"\n')
    programs = {
        # More names than a pipe holds: what reads only the first must not end the script by SIGPIPE.
        "scontrol": 'for i in $(seq 7 20000); do echo "node$i"; done',
        "srun": "shift; for i in 0 1 2; do SLURM_PROCID=$i SLURM_LOCALID=$((i % 2)) SLURM_NTASKS=3 "
        'SLURM_NTASKS_PER_NODE=2 "$@"; done',
        "phosphor": 'echo "$1 $RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $MASTER_ADDR $MASTER_PORT"',
    }
    for name, body in programs.items():
        path = tmp_path / "programs" / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    done = subprocess.run(
        ["bash", str(SLURM)],
        env={
            "PATH": f"{tmp_path}/programs:/usr/bin:/bin",
            "HOME": str(tmp_path),
            "SLURM_JOB_NODELIST": "node[7-8]",
            "SLURM_JOB_ID": "41234",
            "SLURM_CPUS_PER_TASK": "8",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = [line.split() for line in done.stdout.splitlines()]
    assert [words[0] for words in seen] == ["train"] * 3 + ["sample"] * 3 + ["audit"] * 3
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    places = [place_of_process(dict(zip(names, words[1:], strict=True))) for words in seen[:3]]
    assert [(place.rank, place.size, place.local_rank) for place in places] == [
        (0, 3, 0),
        (1, 3, 1),
        (2, 3, 0),
    ]
    assert seen[0][5] == "node7"


def test_kubernetes_gives_every_pod_its_place() -> None:
    service, job = kubernetes()
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    count = job["spec"]["completions"]
    assert job["spec"]["parallelism"] == count == int(environment["WORLD_SIZE"])
    assert job["spec"]["completionMode"] == "Indexed"
    for index in range(count):
        place = place_of_process({**environment, "RANK": str(index)})
        assert (place.rank, place.size) == (index, count)
    # The first pod is reached as <job>-0.<service>, by its port.
    job_name, service_name = job["metadata"]["name"], service["metadata"]["name"]
    assert environment["MASTER_ADDR"] == f"{job_name}-0.{service_name}"
    assert pod["subdomain"] == service_name
    assert service["spec"]["selector"] == {"job-name": job_name}
    assert str(service["spec"]["ports"][0]["port"]) == environment["MASTER_PORT"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_templates_are_packaged() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["flows"]
    packaged = {path for pattern in patterns for path in (ROOT / "flows").glob(pattern)}
    assert {SLURM, KUBERNETES} <= packaged
