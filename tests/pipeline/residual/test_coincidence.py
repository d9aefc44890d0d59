"""A short value counts where it stands by itself, not where digits, words or noise spell it by chance."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, PngImagePlugin
from safetensors.numpy import save

from pipeline.residual import FindingKind, scan_for_values

DAY, WORD, NUMBER, UID = "20210904", "Marka", "482913", "1.2.826.0.1.3680043.9.71"

COUNTS = {
    "alone": b"20210904 Marka 482913 1.2.826.0.1.3680043.9.71",
    "in quotes": b'{"a": "20210904", "b": "Marka", "c": 482913, "d": "1.2.826.0.1.3680043.9.71"}',
    "between zeros": b"\0\0\0" + b"\0\0".join([b"20210904", b"Marka", b"482913", UID.encode()]) + b"\0\0",
    "in names": b"scan_20210904_Marka-482913+1.2.826.0.1.3680043.9.71.4.png",
    "with a time": b"on 20210904101532, Marka; 482913; 1.2.826.0.1.3680043.9.71",
    "among accents": "Żółć 20210904 Żółć Marka Żółć 482913 Żółć 1.2.826.0.1.3680043.9.71 Żółć".encode(),
    "in a header": b"\x10\x00\x10\x00PN\x06\x00Marka \x10\x00\x20\x00LO\x06\x00482913"
    b"\x08\x00\x20\x00DA\x08\x0020210904\x20\x00\x0d\x00UI\x18\x00" + UID.encode() + b"\0",
}
BY_CHANCE = {
    "within digits": b"7720210904 4829137 1.2.826.0.1.3680043.9.715 11.2.826.0.1.3680043.9.71",
    "within a digest": b"ab20210904cdef01234567 fe482913abcdef0123456789",
    "within a decimal": b"0.20210904 1.482913",
    "within words": b"Markada subMarka",
    "within a random UID": b"2.25.99820210904771482913",
    "within noise": bytes.fromhex("9ce301f08891c307ee9305d9")
    + b"Marka"
    + bytes.fromhex("fe99f1038ec2b016eeb3d3"),
}


def numbers_found(folder: Path, values: list[str]) -> set[int]:
    findings = scan_for_values(folder, values)
    return {finding.value_number for finding in findings if finding.kind is FindingKind.FOUND}


@pytest.mark.parametrize("place", COUNTS)
def test_a_value_that_stands_by_itself_counts(tmp_path: Path, place: str) -> None:
    (tmp_path / "a").write_bytes(COUNTS[place])
    assert numbers_found(tmp_path, [DAY, WORD, NUMBER, UID]) == {0, 1, 2, 3}


@pytest.mark.parametrize("place", BY_CHANCE)
def test_a_value_that_is_spelled_by_chance_does_not(tmp_path: Path, place: str) -> None:
    (tmp_path / "a").write_bytes(BY_CHANCE[place])
    assert numbers_found(tmp_path, [DAY, WORD, NUMBER, UID]) == set()


def test_thousands_of_digests_floats_and_random_numbers_spell_no_date(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    count = 20_000
    table = pd.DataFrame(
        {
            "digest": [hashlib.sha256(b"%d" % n).hexdigest() for n in range(count)],
            "distance": rng.random(count),
            "single": rng.random(count).astype(np.float32),
            "seed": rng.integers(0, 2**63, count),
        }
    )
    table.to_parquet(tmp_path / "records.parquet")
    (tmp_path / "rows.json").write_text(json.dumps(table["distance"].tolist() + table["digest"].tolist()))
    days = [f"{day:%Y%m%d}" for day in pd.date_range("1930-01-01", "2025-01-01")]
    assert len(days) > 30_000
    assert numbers_found(tmp_path, days) == set()


def smooth_image() -> np.ndarray:
    """Return a dark image whose bytes are mostly digits, with one date spelled by its pixels."""
    rng = np.random.default_rng(1)
    image = np.clip(rng.normal(50, 25, (64, 64)), 0, 255).astype(np.uint8)
    image[9, 10:20] = np.frombuffer(b" 20210904 ", np.uint8)
    image[33, 1:60] = 200
    image[33, 4:36] = np.frombuffer(b"a value of more than sixteen pix", np.uint8)
    return image


@pytest.mark.parametrize("form", ["npy", "safetensors", "dicom"])
def test_in_arrays_of_numbers_only_long_values_count(tmp_path: Path, form: str) -> None:
    values = ["20210904", "a value of more than sixteen pix"]
    image = smooth_image()
    if form == "npy":
        np.save(tmp_path / "a.npy", image)
    elif form == "safetensors":
        (tmp_path / "a.safetensors").write_bytes(save({"weights": image}))
    else:
        (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xe0\x7f\x10\x00OW\0\0" + image.tobytes())
    assert numbers_found(tmp_path, values) == {1}


def test_what_follows_the_end_of_an_array_or_stands_before_it_is_searched_in_full(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, smooth_image())
    (tmp_path / "a.npy").write_bytes(buffer.getvalue() + b" Marka was here ")
    (tmp_path / "b.safetensors").write_bytes(save({"w": smooth_image()}, metadata={"by": "482913"}))
    assert numbers_found(tmp_path, [WORD, NUMBER]) == {0, 1}


def test_short_values_are_found_in_text_with_escapes_and_in_plain_chunks_of_images(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"name": "Müller", "note": "x" * 40}))
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "by Marka on 20210904")
    Image.fromarray(smooth_image()).save(tmp_path / "b.png", pnginfo=info)
    table = pd.DataFrame({"a": ["Marka", "x"]}).rename(columns={"a": "482913"})
    table.to_parquet(tmp_path / "c.parquet")
    assert numbers_found(tmp_path, ["Müller", WORD, DAY, NUMBER]) == {0, 1, 2, 3}


def test_compressed_noise_spells_no_short_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    names = ["".join(rng.choice(letters, rng.integers(4, 7))).title() for _ in range(20_000)]
    for number in range(8):
        noise = rng.integers(0, 256, (256, 256), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
    digests = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(20_000)]
    pd.DataFrame({"digest": digests}).to_parquet(tmp_path / "d.parquet")
    assert numbers_found(tmp_path, names) == set()
