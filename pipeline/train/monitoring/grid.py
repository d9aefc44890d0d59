"""Draws grids of samples during training, always from the same noise, so that progress is visible."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from models.devices import to_device
from models.diffusion.denoiser import Denoiser
from models.diffusion.guidance import guided_denoise
from models.latent.autoencoder import Autoencoder
from models.noise import initial_noise, stream_seed
from models.samplers import SAMPLERS, sigma_schedule
from models.samplers.schedule import SIGMA_MAX
from pipeline.artifacts.pixels import from_model_range
from pipeline.storage import atomic_path, make_private_directory

FOLDER_NAME = "grids"
COLUMNS = 6
MAX_ROWS = 8
GRID_STEPS = 16
GAP = 2


def write_grid(
    folder: Path, denoiser: Denoiser, *, step: int, seed: int, autoencoder: Autoencoder | None = None
) -> Path:
    """Draw one row of samples per class (at most eight) and write `grids/step-<step>.png` (private).

    Args:
        folder: the checkpoint directory.
        denoiser: the averaged denoiser.
        step: number of optimiser steps done.
        seed: run seed; the noise does not depend on the step.
        autoencoder: decodes the denoiser's latents into images; None if it generates images.
    """
    num_rows = min(denoiser.num_classes, MAX_ROWS)
    device = next(denoiser.parameters()).device
    labels = torch.arange(num_rows, device=device).repeat_interleave(COLUMNS)
    seeds = [stream_seed(seed, "grid", place) for place in range(num_rows * COLUMNS)]
    noise = to_device(initial_noise(seeds, denoiser.sample_shape), device)
    sigmas = sigma_schedule(GRID_STEPS, sigma_max=SIGMA_MAX * denoiser.spec.noise_scale)
    samples = SAMPLERS["dpmpp_2m"].sample(guided_denoise(denoiser, labels), noise, sigmas)
    if autoencoder is not None:
        samples = autoencoder.to_images(samples)
    pixels = from_model_range(samples.cpu().numpy(), 8)[:, 0]
    path = make_private_directory(folder / FOLDER_NAME) / f"step-{step:06d}.png"
    with atomic_path(path, private=True) as temporary:
        temporary.write_bytes(encode_png(_tile(pixels.astype(np.uint8), COLUMNS)))
    return path


def encode_png(image: npt.NDArray[np.uint8]) -> bytes:
    """Encode a grey image (H, W) as PNG (ISO/IEC 15948: signature, IHDR, IDAT, IEND).

    A training node may have no imaging library.
    """
    height, width = image.shape
    # Every line of a PNG starts with its filter type; 0 means unfiltered.
    lines = np.concatenate([np.zeros((height, 1), np.uint8), image], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def _tile(images: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.uint8]:
    count, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.zeros((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP), dtype=np.uint8)
    for place, image in enumerate(images):
        top = GAP + (place // columns) * (height + GAP)
        left = GAP + (place % columns) * (width + GAP)
        sheet[top : top + height, left : left + width] = image
    return sheet
