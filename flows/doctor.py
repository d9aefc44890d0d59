"""The checks of `phosphor doctor`: each finding is a fact, a judgement and a remedy; nothing is changed."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.identity import KEY_VARIABLE, key_path
from pipeline.storage import ON_WINDOWS, free_bytes, others_may_read

LIBRARIES = ("torch", "monai", "numpy", "pydicom", "nibabel", "pandas", "prefect", "fastapi", "sqlalchemy")
MIN_FREE_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One finding about this machine.

    Attributes:
        subject: what was checked.
        fact: what was found.
        good: whether a run works with it.
        remedy: what to do if it does not.
    """

    subject: str
    fact: str
    good: bool = True
    remedy: str = ""


def examine() -> list[Finding]:
    """Return all findings about this machine, in the order in which they are shown."""
    parts: tuple[Callable[[], Iterator[Finding]], ...] = (
        _versions,
        _extras,
        _compute,
        _codecs,
        _key,
        _disk,
        _prefect,
    )
    return [finding for part in parts for finding in part()]


def _versions() -> Iterator[Finding]:
    python = platform.python_version()
    new_enough = tuple(int(part) for part in python.split(".")[:2]) >= (3, 11)
    yield Finding("python", python, new_enough, "Phosphor needs Python 3.11 or newer.")
    for name in LIBRARIES:
        try:
            yield Finding(name, version(name))
        except PackageNotFoundError:
            yield Finding(name, "not installed", False, f"Run: pip install {name} -c constraints.txt")


def _extras() -> Iterator[Finding]:
    try:
        yield Finding("opacus", version("opacus"))
    except PackageNotFoundError:
        yield Finding("opacus", "not installed (for train.dp.epsilon: pip install 'phosphor-xray[dp]')")


def _compute() -> Iterator[Finding]:
    import torch

    from models.devices import default_device, has_bf16
    from pipeline.distributed.cpu_threads import usable_cores

    yield Finding("threads", f"{torch.get_num_threads()} used by torch, {usable_cores()} cores usable")
    device = default_device()
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        yield Finding("gpu", f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    elif device.type == "mps":
        yield Finding("gpu", "Apple's, through torch's MPS")
    else:
        yield Finding("gpu", "none: training and sampling use the CPU")
    lacking = "" if has_bf16(device) else "no native bf16: networks compute in fp32, at about half the speed"
    yield Finding("arithmetic", lacking or f"bf16 and fp32 ({device.type})")


def _codecs() -> Iterator[Finding]:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import (
        HTJ2KLossless,
        JPEG2000Lossless,
        JPEGBaseline8Bit,
        JPEGLosslessSV1,
        JPEGLSLossless,
        RLELossless,
    )

    wanted = {
        "JPEG": JPEGBaseline8Bit,
        "JPEG lossless": JPEGLosslessSV1,
        "JPEG-LS": JPEGLSLossless,
        "JPEG 2000": JPEG2000Lossless,
        "HTJ2K": HTJ2KLossless,
        "RLE": RLELossless,
    }
    missing = [name for name, syntax in wanted.items() if not get_decoder(syntax).is_available]
    yield Finding(
        "codecs",
        f"missing: {', '.join(missing)}" if missing else ", ".join(wanted),
        not missing,
        "Run: pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg pylibjpeg-rle -c constraints.txt",
    )


def _key() -> Iterator[Finding]:
    if os.environ.get(KEY_VARIABLE):
        yield Finding("key", f"from {KEY_VARIABLE}")
        return
    try:
        path = key_path()
    except UsageError as error:
        yield Finding("key", "none: this user has no home folder", False, error.remedy)
        return
    if not path.exists():
        yield Finding("key", f"none yet: the first ingest makes {path} (mode 0600)")
        return
    mode = "" if ON_WINDOWS else f", mode {path.stat().st_mode & 0o777:04o}"
    yield Finding("key", f"{path}{mode}", not others_may_read(path), f"Run: chmod 600 {path}")


def _disk() -> Iterator[Finding]:
    free = free_bytes(Path.cwd())
    yield Finding(
        "disk",
        f"{free / 2**30:.1f} GiB free under {Path.cwd()}",
        free >= MIN_FREE_BYTES,
        "Free space, or choose --out on another disk; --dry-run estimates what a run needs.",
    )


def _prefect() -> Iterator[Finding]:
    from flows.server import ServerError, answers, api_server, configured_api_url, set_quiet_environment

    set_quiet_environment()
    url = configured_api_url()
    if not url:
        with tempfile.TemporaryDirectory(prefix="phosphor-doctor-") as name:
            try:
                with api_server(Path(name)) as wait_until_ready:
                    wait_until_ready()
            except ServerError as error:
                yield Finding("prefect api", str(error), False, error.remedy)
            else:
                yield Finding("prefect api", "no PREFECT_API_URL: each run starts a temporary server, as now")
        return
    yield Finding(
        "prefect api",
        url,
        answers(url),
        "It does not answer: start it with `prefect server start`, or unset PREFECT_API_URL.",
    )
