"""A release enlarged: what a generator of smaller images offers to a classifier of larger ones.

`python -m tests.experiments.benchmarks.enlarged RELEASE OUT --size 224` writes class folders of PNG files by
bicubic interpolation. `phosphor audit OUT --cohort COHORT` reads them as another generator's; `release` and
`evaluate` then compare them with a generator of the larger size, on the same cohort.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image


def main(arguments: list[str] | None = None) -> int:
    """Enlarge every image of a release."""
    parser = argparse.ArgumentParser(prog="python -m tests.experiments.benchmarks.enlarged")
    parser.add_argument("release", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, required=True, help="longer side in pixels")
    chosen = parser.parse_args(arguments)
    names = sorted((chosen.release / "images").glob("*/*.png"))
    for name in names:
        enlarge(name, chosen.out / name.parent.name / name.name, chosen.size)
    print(f"{len(names)} images at {chosen.size} pixels in {chosen.out}")
    return 0 if names else 1


def enlarge(source: Path, out: Path, size: int) -> None:
    """Write a PNG file with a longer side of `size` pixels."""
    with Image.open(source) as image:
        larger = enlarged(image, size)
    out.parent.mkdir(parents=True, exist_ok=True)
    larger.save(out)


def enlarged(image: Image.Image, size: int) -> Image.Image:
    """Return an image with a longer side of `size` pixels, by bicubic interpolation."""
    factor = size / max(image.size)
    shape = (round(image.width * factor), round(image.height * factor))
    return image.resize(shape, Image.Resampling.BICUBIC)


if __name__ == "__main__":
    sys.exit(main())
