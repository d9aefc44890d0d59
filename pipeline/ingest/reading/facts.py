"""Collects from the parts, in small arrays, the facts about all scans that later steps need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Bools, Codes
from pipeline.ingest.reading.parts import read_rows
from pipeline.ingest.reading.signatures import signature_length
from pipeline.ingest.splitting.seals import DrawSeal
from pipeline.sources.tables.patient_ids import alike_numbers

Known = Mapping[str, tuple[int, int]]
"""Patient pseudonym (`p-` and 16 hex digits) -> (position in `SPLITS`, position in `AUDIT_ROLES`)."""


@dataclass
class Facts:
    """Facts about N scans and P patients.

    Attributes:
        readable: (N,) True for scans that were read.
        patients: (N,) patient number, -1 if unknown.
        hashes: (N,) hash of the stored pixels.
        signatures: (N, D) int8 signature of the image, zeros without one.
        starts: (parts + 1,) number of the first scan of each part.
        draws: (P,) split draw of each patient.
        known_side, known_audit: (P,) split and audit role in an earlier cohort, -1 without.
        alike: (P,) group of each patient; the ids of a group look alike.
        doubtful: (P,) True if a header's id may be a stand-in that names nobody.
        numbers: pseudonym (8 bytes) -> patient number.
    """

    readable: Bools
    patients: Codes
    hashes: npt.NDArray[np.void]
    signatures: npt.NDArray[np.int8]
    starts: Codes
    draws: Codes
    known_side: Codes
    known_audit: Codes
    alike: Codes
    doubtful: Bools
    numbers: dict[bytes, int] = field(default_factory=dict)

    def with_claims(self, claims: dict[int, str]) -> Codes:
        """Return the patient numbers (N,) with those of `claims` (scan number -> pseudonym) filled in."""
        patients = self.patients.copy()
        numbers = dict(self.numbers) if claims else {}
        for row, pseudonym in claims.items():
            patients[row] = numbers.setdefault(_short(pseudonym), len(numbers))
        return patients


def gather(folder: Path, num_parts: int, num_scans: int, known: Known, seal: DrawSeal) -> Facts:
    """Collect the facts about all scans, with one part in memory at a time.

    Args:
        folder: folder of the parts.
        num_parts: number of parts.
        num_scans: number of rows in all parts.
        known: split and audit role of patients in an earlier cohort.
        seal: unseals the draws.
    """
    facts = Facts(
        readable=np.zeros(num_scans, dtype=bool),
        patients=np.full(num_scans, -1, dtype=np.int64),
        hashes=np.zeros(num_scans, dtype="V16"),
        signatures=np.zeros((num_scans, signature_length()), dtype=np.int8),
        starts=np.zeros(num_parts + 1, dtype=np.int64),
        draws=np.zeros(num_scans, dtype=np.int64),
        known_side=np.full(num_scans, -1, dtype=np.int64),
        known_audit=np.full(num_scans, -1, dtype=np.int64),
        alike=np.zeros(0, dtype=np.int64),
        doubtful=np.zeros(num_scans, dtype=bool),
    )
    numbers = facts.numbers
    looks: list[tuple[bytes, ...]] = []
    at = 0
    for number in range(num_parts):
        for row in read_rows(folder, number):
            if row.patient_id:
                fresh = len(numbers)
                code = numbers.setdefault(_short(row.patient_id), fresh)
                if code == fresh:
                    facts.draws[code] = int(seal(row.sealed_draw, row.patient_id), 16)
                    facts.known_side[code], facts.known_audit[code] = known.get(row.patient_id, (-1, -1))
                    facts.doubtful[code] = row.doubtful
                    looks.append(tuple(map(bytes.fromhex, row.looks.split())))
                facts.patients[at] = code
            if not row.reason:
                facts.readable[at] = True
                facts.hashes[at] = np.void(bytes.fromhex(row.pixel_hash))
                if row.signature:
                    facts.signatures[at] = np.frombuffer(bytes.fromhex(row.signature), dtype=np.int8)
            at += 1
        facts.starts[number + 1] = at
    facts.alike = np.array(alike_numbers(looks), dtype=np.int64)
    for name in ("draws", "known_side", "known_audit", "doubtful"):
        setattr(facts, name, getattr(facts, name)[: len(numbers)])
    return facts


def _short(pseudonym: str) -> bytes:
    """Return the eight bytes of a patient pseudonym, which take a quarter of the memory of its text."""
    return bytes.fromhex(pseudonym[2:])
