"""The packages that a GPU machine without a network lacks, as wheels in a folder on `PYTHONPATH`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

BROUGHT = (
    "monai",
    "pydantic",
    "pydantic-core",
    "annotated-types",
    "typing-inspection",
    "platformdirs",
    "filelock",
)
"""What the proof needs beside torch and what torch requires, einops, numpy, pandas, pyarrow, scipy,
scikit-learn, safetensors, PyYAML and Pillow. Pydantic needs the two small ones after its core; torch brings a
filelock, which may be older than ours has to be."""

PLATFORMS = tuple(
    f"{name}_x86_64" for name in ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
)


def download(folder: Path, python: str) -> int:
    """Download these wheels, and no dependencies, for a Python on Linux x86-64; return their bytes in all.

    The versions are those installed here, which are tested together.

    Args:
        folder: where they go; wheels that lie there are deleted, as two versions of one would clash.
        python: version of the other machine's Python, for instance 3.12.

    Raises:
        RuntimeError: pip failed; the message ends with what it said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, "--implementation", "cp", "--dest", str(folder)]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    command += [f"{name}=={version(name)}" for name in BROUGHT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != len(BROUGHT):
        raise RuntimeError(f"pip could not download all of {', '.join(BROUGHT)}: {done.stderr[-2000:]}")
    return sum(wheel.stat().st_size for wheel in wheels)


def unpack(search_path: list[str]) -> Path | None:
    """Unpack the wheels that lie in the folders of a search path, and put them at its front.

    Python imports from folders, not from wheels. At the front, as these versions were tested together.

    Returns:
        The folder they were unpacked to, or None if there are none.
    """
    wheels = [wheel for folder in search_path if folder for wheel in sorted(Path(folder).glob("*.whl"))]
    if not wheels:
        return None
    site = Path(tempfile.mkdtemp(prefix="phosphor-wheels-"))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    search_path.insert(0, str(site))
    return site
