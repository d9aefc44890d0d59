"""Seals a patient's draw wherever it is written: unsealed it would tell whether a guessed id is right."""

from __future__ import annotations

import hashlib
import hmac


class DrawSeal:
    """Masks the draws of one split, a patient's always alike; sealing a sealed draw gives it back.

    A draw depends on seed, dataset and patient id alone, so anybody could compute those of all likely ids.
    The mask (HMAC-SHA256, RFC 2104) is another for every patient, seed and dataset: were it the patient's
    alone, two cohorts of one patient would cancel it.

    Args:
        key: the pseudonym key.
        dataset: name of the manifest.
        split_seed: seed of the split.
    """

    def __init__(self, key: bytes, dataset: str, split_seed: int) -> None:
        self._key, self._split = key, f"{split_seed}\0{dataset}"

    def __call__(self, draw: str, patient_id: str) -> str:
        """Return a draw of hex digits sealed, or a sealed one opened.

        Args:
            draw: hex digits; none stay none.
            patient_id: the patient's pseudonym.
        """
        if not draw:
            return ""
        message = f"draw of a split\0{self._split}\0{patient_id}".encode("utf-8", "surrogatepass")
        mask = hmac.new(self._key, message, hashlib.sha256).hexdigest()[: len(draw)]
        return f"{int(draw, 16) ^ int(mask, 16):0{len(draw)}x}"
