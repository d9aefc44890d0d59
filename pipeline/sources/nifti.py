"""NIfTI files: one slice or a projection, in canonical orientation and displayed as a radiograph."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanRefusedError
from pipeline.sources.base import NiftiOptions, Scan, ScanTask, check_size
from pipeline.sources.stores import MAX_FILE_BYTES

MAX_VOXELS = 2**28
"""Largest volume that is read; a computed tomography of a chest has about 100 million voxels."""

_LONGEST_HEADER = 540
_BLOCK = 2**20
_BLOCK_VOXELS = 2**22


class Scale(NamedTuple):
    """Conversion of stored values.

    Attributes:
        slope: factor; None if values are not scaled.
        inter: intercept, added after multiplication.
        window: values to which the result is clipped, or None.
    """

    slope: float | None
    inter: float | None
    window: tuple[float, float] | None


def read(task: ScanTask, data: bytes) -> Iterator[Scan]:
    """Yield the single scan of a NIfTI-1 or NIfTI-2 file, plain or gzipped.

    In RAS+ orientation, row r and column c of the frontal image are `data[W-1-c, 0, H-1-r]`: the patient's
    right is at the left of the image, and the head at the top. Axial and sagittal slices follow the same
    rule with their two axes.

    Args:
        task: the scan.
        data: the file's bytes.

    Raises:
        ScanRefusedError: not NIfTI, corrupt, too large, a volume without a projection, or 4D.
    """
    import nibabel

    # nibabel's log quotes bytes of invalid headers.
    nibabel.imageglobals.logger.disabled = True
    options = task.rule.read_with(NiftiOptions)
    digest = hashlib.sha256(data).hexdigest()
    try:
        with np.errstate(divide="ignore", invalid="ignore"):
            unpacked, header = _unpacked(data)
            volume = _stored(unpacked, header)
            slope, inter = header.get_slope_inter()
            scale = Scale(slope, inter, options.window)
            oriented = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume, header.get_best_affine()))
            volume = np.asarray(oriented.dataobj)
            zooms = [float(size) for size in oriented.header.get_zooms()[:3]]
    except ScanRefusedError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise ScanRefusedError("corrupt NIfTI file") from error
    # nibabel raises many kinds on broken headers (HeaderDataError, ValueError, struct.error, ...).
    except Exception as error:
        raise ScanRefusedError("not a NIfTI file") from error
    # An overflow gives values that are not finite, which are refused below.
    with np.errstate(over="ignore", invalid="ignore"):
        plane, spacing, aspect = _plane(volume, scale, zooms, options)
    # The caller works on the scan for a long time, and must not keep the volume in memory.
    del unpacked, volume, oriented, data
    if not np.isfinite(plane).all():
        raise ScanRefusedError("pixel values are not finite")
    yield Scan(
        pixels=plane,
        value_range=options.window,
        sha256=digest,
        source_format="nifti",
        spacing_mm=spacing,
        pixel_aspect=aspect * task.pixel_aspect,
        attributes=task.attributes,
    )


def _unpacked(data: bytes) -> tuple[bytes | npt.NDArray[np.uint8], Any]:
    """Return a file's unpacked bytes up to the end of the image, and its header."""
    if data[:2] != b"\x1f\x8b":
        header = _header(data[:_LONGEST_HEADER])
        return data, header
    with gzip.open(io.BytesIO(data)) as stream:
        header = _header(stream.read(_LONGEST_HEADER))
        # Only the image gets memory, because a few bytes may unpack to a thousand times as many.
        room = np.empty(header.get_data_offset() + _size(header), dtype=np.uint8)
        stream.seek(0)
        filled, view = 0, room.data
        while filled < len(room) and (count := stream.readinto(view[filled : filled + _BLOCK])):
            filled += count
        # Read to the end, which has the checksum.
        rest = MAX_FILE_BYTES - filled
        while rest > 0 and (more := stream.read(_BLOCK)):
            rest -= len(more)
        if rest <= 0:
            raise ScanRefusedError("file too large")
    if filled < len(room):
        raise ScanRefusedError("corrupt NIfTI file")
    return room, header


def _header(start: bytes) -> Any:
    """Return the header of a file, after checking the image's size and type.

    Raises:
        ScanRefusedError: too many voxels, no 2D image or volume, or values that are not real numbers.
    """
    import nibabel

    kind = nibabel.Nifti2Header if _is_nifti2(start) else nibabel.Nifti1Header
    header = kind(start[: kind.sizeof_hdr])
    if len(_shape(header)) not in {2, 3}:
        raise ScanRefusedError("not a 2D image or a volume")
    if header.get_data_dtype().kind not in "iuf":
        raise ScanRefusedError("unsupported pixel format")
    if header.get_data_offset() < 0 or min(_shape(header)) < 1:
        raise ScanRefusedError("no pixels")
    if math.prod(_shape(header)) > MAX_VOXELS or header.get_data_offset() + _size(header) > MAX_FILE_BYTES:
        raise ScanRefusedError("image too large")
    return header


def _shape(header: Any) -> tuple[int, ...]:
    """Return the shape of an image without trailing axes of length 1 after the second."""
    shape = tuple(int(size) for size in header.get_data_shape())
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _size(header: Any) -> int:
    """Return the number of bytes of an image."""
    return math.prod(_shape(header)) * int(header.get_data_dtype().itemsize)


def _stored(data: bytes | npt.NDArray[np.uint8], header: Any) -> npt.NDArray[Any]:
    """Return a view of the stored values, (X, Y, Z)."""
    shape = _shape(header)
    start = header.get_data_offset()
    if start + _size(header) > len(data):
        raise ScanRefusedError("corrupt NIfTI file")
    values = np.frombuffer(data, header.get_data_dtype(), math.prod(shape), start)
    return values.reshape((*shape, 1)[:3], order="F")


def _scaled(stored: npt.NDArray[Any], scale: Scale) -> npt.NDArray[np.float32]:
    values = stored.astype(np.float32, order="C")
    if scale.slope is not None:
        values *= np.float32(scale.slope)
        values += np.float32(scale.inter or 0.0)
    return values if scale.window is None else np.clip(values, *scale.window, out=values)


def _flattened(volume: npt.NDArray[Any], scale: Scale, axis: int, projection: str) -> npt.NDArray[np.float32]:
    """Return the mean or maximum along an axis, computed over blocks of slices."""
    slices = np.moveaxis(volume, axis, 0)
    step = max(1, _BLOCK_VOXELS // max(1, slices[0].size))
    total = np.zeros(slices.shape[1:], dtype=np.float64)
    highest = np.full(slices.shape[1:], -np.inf, dtype=np.float32)
    for start in range(0, len(slices), step):
        block = _scaled(slices[start : start + step], scale)
        if projection == "mean":
            total += block.sum(axis=0, dtype=np.float64)
        else:
            np.maximum(highest, block.max(axis=0), out=highest)
    return (total / len(slices)).astype(np.float32) if projection == "mean" else highest


def _plane(
    volume: npt.NDArray[Any], scale: Scale, zooms: list[float], options: NiftiOptions
) -> tuple[npt.NDArray[np.float32], float | None, float]:
    """Return the upright (H, W) image, its row spacing in mm, and the pixel aspect (width over height)."""
    thin = [axis for axis in range(3) if volume.shape[axis] == 1]
    axis = thin[0] if thin else options.axis
    check_size(*(size for number, size in enumerate(volume.shape) if number != axis))
    projection = "middle" if thin else options.projection
    if projection == "none":
        raise ScanRefusedError("a volume, and the manifest sets no projection")
    if projection == "middle":
        upright = _scaled(_upright(np.moveaxis(volume, axis, 0)[volume.shape[axis] // 2]), scale)
    else:
        upright = np.ascontiguousarray(_upright(_flattened(volume, scale, axis, projection)))
    across, down = (zoom for number, zoom in enumerate(zooms) if number != axis)
    valid = np.isfinite([across, down]).all() and across > 0 and down > 0
    aspect = across / down if valid and 0.1 < across / down < 10 else 1.0
    return upright, down if valid else None, aspect


def _upright(plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a view of a RAS+ plane with its first axis as columns and its second as rows, from the top."""
    return plane[::-1, ::-1].T


def _is_nifti2(data: bytes) -> bool:
    return data[:4] in {b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c"}
