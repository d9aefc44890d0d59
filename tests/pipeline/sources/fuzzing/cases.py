"""Damaged files by number: the same number gives the same file wherever the same seeds are there."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.sources.base import DicomOptions, NiftiOptions, ReadRule
from tests.pipeline.sources.dicom.bombs_dicom import DICOM_BOMBS
from tests.pipeline.sources.fuzzing.mutations import ANY_FORMAT, Mutation
from tests.pipeline.sources.fuzzing.mutations_dicom import DICOM
from tests.pipeline.sources.fuzzing.mutations_nifti import NIFTI, NIFTI_BOMBS
from tests.pipeline.sources.fuzzing.mutations_pictures import JPEG, JPEG_BOMBS, PNG, PNG_BOMBS, TIFF
from tests.pipeline.sources.fuzzing.seeds import (
    dicom_seeds,
    found_seeds,
    jpeg_seeds,
    nifti_seeds,
    png_seeds,
    real_seeds,
    tiff_seeds,
)

SEED = 20_240
"""Part of every case's chance."""


@dataclass(frozen=True)
class Family:
    """Files of one format: their kind of source, their seeds, their damage, and what costs much."""

    name: str
    kind: str
    seeds: Callable[[], dict[str, bytes]]
    own: tuple[Mutation, ...]
    bombs: tuple[Mutation, ...] = ()


_DICOM = Family("dicom", "dicom", dicom_seeds, DICOM, DICOM_BOMBS)
_FOUND = Family("dicom of pydicom", "dicom", found_seeds, DICOM, DICOM_BOMBS)
_REAL = Family("dicom, real", "dicom", real_seeds, DICOM, DICOM_BOMBS)
_PNG = Family("png", "images", png_seeds, PNG, PNG_BOMBS)
_JPEG = Family("jpeg", "images", jpeg_seeds, JPEG, JPEG_BOMBS)
_TIFF = Family("tiff", "images", tiff_seeds, TIFF)
_NIFTI = Family("nifti", "nifti", nifti_seeds, NIFTI, NIFTI_BOMBS)
FAMILIES = (_DICOM, _FOUND, _PNG, _NIFTI, _DICOM, _FOUND, _JPEG, _NIFTI, _REAL, _TIFF)
"""Family by the last digit of the number."""

BOMB_SHARE = 0.01
"""Share of cases that are made to cost much memory or time."""


@dataclass(frozen=True)
class Case:
    """A damaged file.

    Attributes:
        number: its number, from which all else follows.
        family: name of the family.
        seed: name of the valid file.
        damage: names of what was done to it, in order.
        rule: how it is to be read; `root` is empty.
        data: the file.
    """

    number: int
    family: str
    seed: str
    damage: tuple[str, ...]
    rule: ReadRule
    data: bytes

    def __str__(self) -> str:
        return f"case {self.number}: {self.family}, {self.seed!r}, {' + '.join(self.damage)}"


def case(number: int) -> Case | None:
    """Return a damaged file, or None where the seeds of its family are missing.

    Args:
        number: from 0 on; a negative one stands for an undamaged file of the family with its last digit.
    """
    family = FAMILIES[number % len(FAMILIES)]
    seeds = sorted(family.seeds().items())
    if not seeds:
        return None
    if number < 0:
        plain = _options(family.kind, DicomOptions("first", colour="grey"), NiftiOptions("middle"))
        rule = ReadRule(family.kind, "", options=plain)
        return Case(number, family.name, *seeds[0][:1], (), rule, seeds[0][1])
    rng = random.Random(f"{SEED}-{number}")
    seed, data = rng.choice(seeds)
    chosen: list[Mutation] = []
    if rng.random() < BOMB_SHARE and family.bombs:
        chosen.append(rng.choice(family.bombs))
    else:
        chosen.append(rng.choice(family.own if rng.random() < 0.65 else ANY_FORMAT))
        if rng.random() < 0.25:
            chosen.append(rng.choice(ANY_FORMAT))
    for mutation in chosen:
        # Damage that needs more than an earlier one left in place changes nothing.
        try:
            data = mutation(rng, data)
        except (IndexError, ValueError, OverflowError, OSError, EOFError, struct.error, zlib.error):
            continue
    dicom = DicomOptions(
        frames=rng.choice(("refuse", "first", "first", "middle", "each", "each", "each", "2")),
        window=rng.choice(("0", "0", "0", "0", "0", "1", "none")),
        headless=True,
        colour=rng.choice(("refuse", "grey")),
    )
    tag = "PatientID" if family.kind == "dicom" and rng.random() < 0.5 else ""
    nifti = NiftiOptions(rng.choice(("none", "middle", "mean", "max")), rng.randrange(3))
    rule = ReadRule(family.kind, "", patient_tag=tag, options=_options(family.kind, dicom, nifti))
    names = tuple(mutation.__name__ for mutation in chosen)
    return Case(number, family.name, seed, names, rule, data)


def _options(kind: str, dicom: DicomOptions, nifti: NiftiOptions) -> object:
    return {"dicom": dicom, "nifti": nifti}.get(kind)
