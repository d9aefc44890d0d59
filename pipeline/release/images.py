"""Images of a release: greyscale PNG, equal bytes for equal pixels, each marked as synthetic."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.arrays import Ints
from pipeline.errors import TamperedError
from pipeline.progress import track
from pipeline.release.layout import IMAGE_FOLDER, MAX_SIDE, NOT_CLINICAL
from pipeline.storage import storage_errors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pipeline.artifacts.pixels import StoredPixels

COMPRESS_LEVEL = 6
_BATCH = 256
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNKS = {b"IHDR", b"tEXt", b"IDAT", b"IEND"}


def marks(row: dict[str, Any]) -> dict[str, str]:
    """Return the text marks of one image, from its row of the metadata table."""
    seed = row["seed"]
    return {
        "Synthetic": "YES",
        "Warning": NOT_CLINICAL,
        "Class": str(row["class"]),
        "Seed": "" if seed is None else str(seed),
        "CheckpointDigest": str(row["checkpoint_digest"] or ""),
    }


def encode_png(image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], text: dict[str, str]) -> bytes:
    """Encode (H, W) uint8 or uint16 as greyscale PNG of 8 or 16 bits, with tEXt marks and nothing else."""
    import numpy as np
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(
        buffer, format="PNG", compress_level=COMPRESS_LEVEL, pnginfo=info
    )
    return buffer.getvalue()


def write_images(
    folder: Path,
    rows: list[dict[str, Any]],
    pixel_rows: Ints,
    take: Callable[[Ints], StoredPixels],
) -> None:
    """Write one PNG per row below `folder`; the caller syncs them to disk.

    Args:
        folder: the release being written.
        rows: rows of the metadata table.
        pixel_rows: row of each image among the candidates.
        take: function from rows to stored pixels (n, 1, H, W).
    """
    with storage_errors(folder):
        for parent in {(folder / row["file_name"]).parent for row in rows}:
            parent.mkdir(parents=True, exist_ok=True)
    with track("release", len(rows), unit="images") as progress:
        for start in range(0, len(rows), _BATCH):
            pixels = take(pixel_rows[start : start + _BATCH])
            for row, image in zip(rows[start : start + _BATCH], pixels, strict=True):
                with storage_errors(folder):
                    (folder / row["file_name"]).write_bytes(encode_png(image[0], marks(row)))
            progress.update(len(pixels))


def image_names(rows: list[dict[str, Any]]) -> list[str]:
    """Return the relative names of the images of a release."""
    return [str(row["file_name"]) for row in rows]


def check_images(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Check every image of a release; see `check_png`.

    Raises:
        TamperedError: an image is not what its row says, or they have different bit depths.
    """
    depths = {check_png(folder / row["file_name"], row["file_name"], row) for row in rows}
    if len(depths) != 1:
        raise _wrong(IMAGE_FOLDER, "holds images of different bit depths")


def check_png(path: Path, name: str, row: dict[str, Any]) -> int:
    """Check one image of a release and return its bit depth (8 or 16).

    The file may contain the header, the marks, the image data and the end, and nothing else, so that no image
    can carry other data out. Sizes are checked before anything is decompressed.

    Raises:
        TamperedError: the image does not match its row.
    """
    width, height = int(row["width"]), int(row["height"])
    largest = 2 * width * height + height + 2**16
    if path.stat().st_size > largest + largest // 8:
        raise _wrong(name, "is larger than an image of its size can be")
    chunks = _chunks(path.read_bytes(), name)
    header = chunks[0][1]
    depth = header[8]
    shape = (int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big"))
    if not 0 < max(shape) <= MAX_SIDE or shape != (width, height):
        raise _wrong(name, f"is not {width} x {height} pixels")
    if depth not in (8, 16) or header[9:] != b"\0\0\0\0":
        raise _wrong(name, "is not plain 8 or 16 bit greyscale")
    found = [body.split(b"\0", 1) for kind, body in chunks if kind == b"tEXt"]
    expected = [[key.encode("latin-1"), text.encode("latin-1")] for key, text in marks(row).items()]
    if found != expected:
        raise _wrong(name, "does not carry the marks of its row")
    packed = b"".join(body for kind, body in chunks if kind == b"IDAT")
    size = height * (width * depth // 8 + 1)
    _check_image_data(packed, size, name)
    return depth


def _chunks(data: bytes, name: str) -> list[tuple[bytes, bytes]]:
    """Split a PNG into (type, body) chunks, checking order and checksums (ISO/IEC 15948, clause 5)."""
    if not data.startswith(_SIGNATURE):
        raise _wrong(name, "is not a PNG file")
    chunks: list[tuple[bytes, bytes]] = []
    position = len(_SIGNATURE)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        body = data[position + 8 : position + 8 + length]
        crc = data[position + 8 + length : position + 12 + length]
        if kind not in _CHUNKS or zlib.crc32(kind + body).to_bytes(4, "big") != crc:
            raise _wrong(name, "has a damaged or foreign chunk")
        chunks.append((kind, body))
        position += 12 + length
    kinds = [kind for kind, _ in chunks]
    whole = position == len(data) and kinds[:1] == [b"IHDR"] and kinds[-1:] == [b"IEND"]
    if not whole or kinds.count(b"IHDR") != 1 or kinds.count(b"IEND") != 1 or len(chunks[0][1]) != 13:
        raise _wrong(name, "is not a complete PNG file")
    return chunks


def _check_image_data(packed: bytes, size: int, name: str) -> None:
    decoder = zlib.decompressobj()
    try:
        raw = decoder.decompress(packed, size + 1)
    except zlib.error:
        raw = b""
    if len(raw) != size or not decoder.eof or decoder.unused_data:
        raise _wrong(name, "holds image data of another size")


def _wrong(name: str, problem: str) -> TamperedError:
    return TamperedError(f"{name} {problem}", field="release", remedy="Release the dataset again.")
