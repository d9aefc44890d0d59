"""How fast this machine is at each stage's inner loop, measured for a second or less on the real network."""

from __future__ import annotations

import math
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.artifacts.guarantee import require_opacus
from pipeline.cost.pacing import TIMED_CALLS, pace_of, saved_bytes, seconds_of
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.privacy.settings import AuditSettings
from pipeline.sample.settings import SampleSettings
from pipeline.train.settings import TrainSettings

if TYPE_CHECKING:
    from models.diffusion.denoiser import Denoiser
    from models.optim.precision import Precision
    from models.optim.private_gradient import PrivateGradient
    from pipeline.phantom.settings import PhantomSettings
    from pipeline.sources.base import ScanTask

_QUERIES, _REFERENCES = 32, 10_000
_SCANS = 6


@dataclass(frozen=True)
class StepSpeed:
    """What an optimiser step costs.

    Attributes:
        seconds: of one step; parameters: of the network.
        more_bytes: memory that a whole batch needs beyond what this process has taken by now.
    """

    seconds: float
    parameters: int
    more_bytes: int


def train_speed(settings: TrainSettings, image_size: tuple[int, int], num_classes: int) -> StepSpeed:
    """Measure an optimiser step of the real network."""
    import torch

    from models.diffusion.objective import denoising_loss
    from models.optim.ema import PowerFunctionAverages
    from models.optim.optimiser import Optimiser
    from models.optim.precision import DTYPES
    from models.optim.working_copy import WorkingCopy

    denoiser, precision = _denoiser(settings, image_size, num_classes)
    working = WorkingCopy(denoiser.train(), precision, recompute=settings.checkpoint_activations)
    device = next(denoiser.parameters()).device
    optimizer = Optimiser(
        denoiser.named_parameters(),
        name=settings.optimizer,
        weight_decay=0.0,
        dtype=DTYPES[precision.dtype],
    )
    ema = PowerFunctionAverages(denoiser, settings.ema_lengths)
    private = _private_gradient(denoiser, settings)
    at_once = min(settings.micro_batch or settings.batch_size, settings.batch_size)
    images = torch.zeros(at_once, *denoiser.sample_shape, device=device)
    labels = torch.zeros(at_once, dtype=torch.int64, device=device)
    sigma = torch.full((at_once,), 0.5, device=device)

    def losses(count: int) -> torch.Tensor:
        return denoising_loss(
            working.denoiser if private is None else private.compute,
            images[:count],
            labels[:count],
            sigma=sigma[:count],
            noise=torch.randn_like(images[:count]),
            sigma_data=settings.sigma_data,
        )

    def step(scans: int) -> None:
        for first in range(0, scans, at_once):
            found = losses(min(at_once, scans - first))
            if private is not None:
                private.add(found)
                continue
            (found.sum() / settings.batch_size).backward()
            working.return_gradients(add=first > 0)
        if private is not None:
            private.finish(torch.Generator(device))
        optimizer.step(1e-9)
        working.clear_gradients()
        working.take_weights()
        ema.update(1)

    pace = pace_of(step, settings.batch_size)
    parameters = sum(parameter.numel() for parameter in denoiser.parameters())
    # Per-sample gradients are kept by Opacus, which says nothing of their size.
    more = (at_once - min(pace.timed, at_once)) * (saved_bytes(losses) if private is None else 0)
    return StepSpeed(pace.seconds, parameters, more)


def denoise_seconds(
    settings: TrainSettings, sample: SampleSettings, image_size: tuple[int, int], num_classes: int
) -> float:
    """Return the seconds of one denoise call on one batch of candidates."""
    import torch

    from models.optim.precision import apply_precision

    denoiser = apply_precision(*_denoiser(settings, image_size, num_classes)).eval()
    device = next(denoiser.parameters()).device
    noise = torch.zeros(sample.batch_size, *denoiser.sample_shape, device=device)
    sigma = torch.full((sample.batch_size,), 0.5, device=device)
    labels = torch.zeros(sample.batch_size, dtype=torch.int64, device=device)

    def call(count: int) -> None:
        with torch.no_grad():
            denoiser(noise[:count], sigma[:count], labels[:count])

    return pace_of(call, sample.batch_size).seconds


@dataclass(frozen=True)
class AutoencoderSpeed:
    """What the autoencoder costs.

    Attributes:
        step_seconds: of one optimiser step; encode_seconds, decode_seconds: of one scan.
        parameters: of the network; moment_bytes: of the stored mean and log-variance of one scan.
    """

    step_seconds: float
    encode_seconds: float
    decode_seconds: float
    parameters: int
    moment_bytes: int


def autoencoder_speed(settings: TrainSettings, image_size: tuple[int, int]) -> AutoencoderSpeed:
    """Measure training, encoding and decoding of the autoencoder of `settings.latent`."""
    import torch

    from models.devices import default_device
    from models.latent.autoencoder import BLOCK_SIZE, Autoencoder, autoencoder_loss, freeze_autoencoder
    from models.optim.optimiser import Optimiser
    from models.optim.working_copy import NarrowCopy

    spec = settings.latent.autoencoder_spec(image_size)
    device, batch_size = default_device(), settings.latent.batch_size
    autoencoder = Autoencoder(spec).to(device)
    working = NarrowCopy(autoencoder.train(), _precision(settings))
    optimizer = Optimiser(autoencoder.named_parameters(), name="adamw", weight_decay=0.0)
    latent_shape = (spec.latent_channels, *spec.latent_size)
    images = torch.zeros(batch_size, 1, *image_size, device=device)
    noise = torch.zeros(batch_size, *latent_shape, device=device)

    def step(count: int) -> None:
        autoencoder_loss(
            working.model, images[:count], noise=noise[:count], gradient_weight=1.0, kl_weight=1e-3
        ).total.backward()
        working.return_gradients()
        optimizer.step(1e-9)
        working.clear_gradients()
        working.take_weights()

    trained = pace_of(step, batch_size)
    frozen = freeze_autoencoder(autoencoder)
    images = torch.zeros(BLOCK_SIZE, 1, *image_size, device=device)
    latents = torch.zeros(BLOCK_SIZE, *latent_shape, device=device)
    return AutoencoderSpeed(
        step_seconds=trained.seconds,
        encode_seconds=pace_of(lambda count: frozen.moments(images[:count]), BLOCK_SIZE).seconds / BLOCK_SIZE,
        decode_seconds=pace_of(lambda count: frozen.to_images(latents[:count]), BLOCK_SIZE).seconds
        / BLOCK_SIZE,
        parameters=sum(parameter.numel() for parameter in frozen.parameters()),
        moment_bytes=2 * 2 * math.prod(latent_shape),
    )


def classifier_step_seconds(
    settings: EvaluateSettings, image_size: tuple[int, int], num_classes: int
) -> float:
    """Return the seconds of one optimiser step of the downstream classifier on one thread."""
    import torch

    from pipeline.evaluate.training import SmallCnn, step_seconds

    num_classes = max(num_classes, 2)
    images = torch.zeros(2 * num_classes, 1, *image_size)
    return step_seconds(SmallCnn.of(settings).training, images, num_classes)


def embedding_step_seconds(settings: AuditSettings, image_size: tuple[int, int], num_train: int) -> float:
    """Return the seconds of one optimiser step of the copy-detection embedding on so many train images."""
    import torch

    from pipeline.privacy.search.embedding_cache import train_embedding

    batch = max(2, min(settings.embedding_batch, num_train))
    images = torch.rand(batch, 1, *_search_shape(settings, image_size)) * 2 - 1

    def steps(count: int) -> None:
        few = {"embedding_steps": TIMED_CALLS, "embedding_batch": max(2, count)}
        train_embedding(images, settings.model_copy(update=few))

    return pace_of(steps, batch).seconds / TIMED_CALLS


def search_seconds(
    settings: AuditSettings, image_size: tuple[int, int], num_references: int, num_folds: int
) -> float:
    """Return the seconds that the copy search spends on one image against all references."""
    import torch

    from models.devices import default_device
    from pipeline.privacy.partial_results import QUERIES_A_PIECE
    from pipeline.privacy.search.pixel_views import PixelSearch
    from pipeline.progress import Silent

    shape, device = _search_shape(settings, image_size), default_device()
    # An accelerator takes about as long for a few as for as many as the audit hands it at a time.
    count = _QUERIES if device.type == "cpu" else QUERIES_A_PIECE
    queries = torch.rand(count, 1, *shape, device=device)
    # Time and memory are proportional to the references.
    share = min(1.0, _REFERENCES / num_references)
    numbers = np.arange(round(share * num_references))
    groups = numbers % (num_folds + 1)
    pixels = PixelSearch(
        torch.rand(len(numbers), 1, *shape, device=device),
        numbers,
        groups < num_folds,
        groups,
        settings,
        texture=0.0,
    )

    def search() -> None:
        with torch.inference_mode():
            pixels.search(queries, torch.full((count,), -1, device=device), Silent())

    return seconds_of(search, timed=1) / count / share


def ingest_seconds(tasks: list[ScanTask], image_size: int) -> float:
    """Return the seconds of reading, hashing and resizing one scan, over a few spread over the list."""
    from pipeline.errors import ScanRefusedError
    from pipeline.ingest.reading.geometry import black_and_white, to_square
    from pipeline.sources.reading import read_scan

    chosen = [tasks[i] for i in np.linspace(0, len(tasks) - 1, min(_SCANS, len(tasks))).astype(int)]
    times: list[float] = []
    for task in chosen:
        started = time.perf_counter()
        try:
            scan = read_scan(task)
            limits = scan.value_range or black_and_white(scan.pixels, (0.5, 99.5))
            to_square(
                scan.pixels,
                image_size,
                fit="pad",
                pixel_aspect=scan.pixel_aspect,
                black_white=limits,
                bit_depth=8,
            )
        except ScanRefusedError:
            pass
        times.append(time.perf_counter() - started)
    # The first one pays for imports; a median is also calm about one slow file.
    return float(np.median(times))


def phantom_seconds(settings: PhantomSettings) -> tuple[float, float, int]:
    """Return (seconds to make one phantom image, seconds to ingest it, bytes of its file)."""
    from pipeline.phantom import write_phantom_cohort
    from pipeline.sources.base import ReadRule, ScanTask

    few = settings.model_copy(update={"num_patients": 3, "nifti_share": 0.0})
    with tempfile.TemporaryDirectory(prefix="phosphor-estimate-") as name:
        folder = Path(name)
        started = time.perf_counter()
        index = write_phantom_cohort(folder, few)
        made = (time.perf_counter() - started) / index.num_images
        files = [path for path in sorted((folder / "dicom").rglob("*")) if path.is_file()]
        rule = ReadRule(kind="dicom", root=str(folder), patient_tag="PatientID")
        tasks = [ScanTask(rule=rule, name=path.relative_to(folder).as_posix(), label="x") for path in files]
        size = sum(path.stat().st_size for path in files) // len(files)
        return made, ingest_seconds(tasks, 32), size


def resident_bytes() -> int:
    """Return the largest resident memory that this process has had."""
    try:
        import resource
    except ImportError:
        return _peak_working_set()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _peak_working_set() -> int:
    """Return what Windows tells of this process in PROCESS_MEMORY_COUNTERS (psapi.h), in bytes."""
    import ctypes
    from ctypes import wintypes

    class Counters(ctypes.Structure):
        _fields_ = (
            ("cb", ctypes.c_uint32),
            ("PageFaultCount", ctypes.c_uint32),
            ("PeakWorkingSetSize", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 7),
        )

    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
    kernel.GetCurrentProcess.restype = wintypes.HANDLE
    kernel.K32GetProcessMemoryInfo.argtypes = (wintypes.HANDLE, ctypes.POINTER(Counters), ctypes.c_uint32)
    counters = Counters()
    process, size = kernel.GetCurrentProcess(), ctypes.sizeof(Counters)
    kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), size)
    return int(counters.PeakWorkingSetSize)


def _denoiser(
    settings: TrainSettings, image_size: tuple[int, int], num_classes: int
) -> tuple[Denoiser, Precision]:
    from models.devices import default_device
    from models.diffusion.denoiser import Denoiser
    from models.network.network import NetworkSpec

    data = settings.data_fields(image_size)
    spec = NetworkSpec.from_dict(
        {**data, "num_classes": num_classes, **settings.network_fields(data["image_size"])}
    )
    return Denoiser(spec, sigma_data=settings.sigma_data).to(default_device()), _precision(settings)


def _private_gradient(denoiser: Denoiser, settings: TrainSettings) -> PrivateGradient | None:
    if settings.dp.epsilon is None:
        return None
    require_opacus(settings.dp.epsilon)
    from models.optim.private_gradient import PrivateGradient

    return PrivateGradient(
        denoiser, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch=settings.batch_size
    )


def _precision(settings: TrainSettings) -> Precision:
    from models.devices import default_device, has_bf16
    from models.optim.precision import Precision, precisions_of

    if settings.dp.epsilon is not None:
        return Precision("fp32", channels_last=False)
    device = default_device()
    tried = precisions_of(device)
    # The probe of `auto` would take longer than the estimate may: the preferred one of those with the type
    # that it ends in.
    wanted = settings.precision if settings.precision != "auto" else "bf16" if has_bf16(device) else "fp32"
    return next((one for one in tried if one.dtype == wanted), Precision(wanted, channels_last=True))


def _search_shape(settings: AuditSettings, image_size: tuple[int, int]) -> tuple[int, int]:
    shrink = min(1.0, settings.search_size / max(image_size))
    return round(image_size[0] * shrink), round(image_size[1] * shrink)
