"""NIfTI files: one slice or a projection, brought to canonical orientation and shown as a radiograph."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanRefusedError
from pipeline.sources.base import MAX_PIXELS, Scan, ScanTask, check_size
from pipeline.sources.stores import MAX_FILE_BYTES


def read(task: ScanTask, data: bytes) -> Iterator[Scan]:
    """Yield the one scan of a NIfTI-1 or NIfTI-2 file, plain or gzipped.

    In RAS+ orientation the frontal image has row r, column c at `data[W-1-c, 0, H-1-r]`: the patient's
    right stands at the left of the image and the head at the top. Axial and sagittal slices follow the
    same rule with the axes that are left.

    Args:
        task: the scan.
        data: the file's bytes.

    Raises:
        ScanRefusedError: not NIfTI, corrupt, too large, a volume without a projection, or 4D.
    """
    import nibabel

    # Its own log quotes the bytes of odd headers.
    nibabel.imageglobals.logger.disabled = True
    digest = hashlib.sha256(data).hexdigest()
    try:
        if data[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(data)) as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                raise ScanRefusedError("file too large")
        kind = nibabel.Nifti2Image if _is_nifti2(data) else nibabel.Nifti1Image
        image = kind.from_bytes(data)
        shape = tuple(int(size) for size in image.shape)
        while len(shape) > 2 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) not in {2, 3}:
            raise ScanRefusedError("not a 2D image or a volume")
        if math.prod(shape) > MAX_PIXELS:
            raise ScanRefusedError("image too large")
        volume = np.asarray(image.dataobj, dtype=np.float32).reshape((*shape, 1)[:3])
        oriented = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume, image.affine))
        volume = np.asarray(oriented.dataobj)
        zooms = [float(size) for size in oriented.header.get_zooms()[:3]]
    except ScanRefusedError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise ScanRefusedError("corrupt NIfTI file") from error
    # nibabel raises many kinds on broken headers (HeaderDataError, ValueError, struct.error, ...).
    except Exception as error:
        raise ScanRefusedError("not a NIfTI file") from error
    plane, spacing, aspect = _plane(volume, zooms, task)
    check_size(*plane.shape)
    if not np.isfinite(plane).all():
        raise ScanRefusedError("pixel values are not finite")
    yield Scan(
        pixels=plane,
        value_range=task.rule.window,
        sha256=digest,
        source_format="nifti",
        spacing_mm=spacing,
        pixel_aspect=aspect * task.pixel_aspect,
        sex=task.sex,
        age_years=task.age_years,
        view=task.view,
    )


def _plane(
    volume: npt.NDArray[np.float32], zooms: list[float], task: ScanTask
) -> tuple[npt.NDArray[np.float32], float | None, float]:
    """Return the upright (H, W) image, its row spacing in mm, and the pixel aspect (width over height)."""
    if task.rule.window is not None:
        volume = np.clip(volume, *task.rule.window)
    thin = [axis for axis in range(3) if volume.shape[axis] == 1]
    axis = thin[0] if thin else task.rule.axis
    if not thin and task.rule.projection == "none":
        raise ScanRefusedError("a volume; the manifest names no projection")
    if not thin and task.rule.projection == "mean":
        flat = volume.mean(axis=axis, dtype=np.float64).astype(np.float32)
    elif not thin and task.rule.projection == "max":
        flat = volume.max(axis=axis)
    else:
        flat = np.take(volume, volume.shape[axis] // 2, axis=axis)
    across, down = (zoom for number, zoom in enumerate(zooms) if number != axis)
    valid = np.isfinite([across, down]).all() and across > 0 and down > 0
    aspect = across / down if valid and 0.1 < across / down < 10 else 1.0
    return np.ascontiguousarray(flat[::-1, ::-1].T), down if valid else None, aspect


def _is_nifti2(data: bytes) -> bool:
    return data[:4] in {b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c"}
