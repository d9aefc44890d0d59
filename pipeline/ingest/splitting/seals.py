"""Seals the split draws that are written to disk; an unsealed draw would confirm a guessed patient id."""

from __future__ import annotations

import hashlib
import hmac


class DrawSeal:
    """Masks the draws of one split; sealing a sealed draw restores it.

    A draw depends on seed, dataset and patient id alone, so anybody can compute the draws of likely ids. The
    mask (HMAC-SHA256, RFC 2104) depends on patient, seed and dataset. A mask that depended on the patient
    alone would cancel out between two cohorts of one patient.

    Args:
        key: the pseudonym key.
        dataset: name of the manifest.
        split_seed: seed of the split.
    """

    def __init__(self, key: bytes, dataset: str, split_seed: int) -> None:
        self._key, self._split = key, f"{split_seed}\0{dataset}"

    def __call__(self, draw: str, patient_id: str) -> str:
        """Return a draw sealed, or a sealed draw unsealed.

        Args:
            draw: hex digits; an empty string stays empty.
            patient_id: pseudonym of the patient.
        """
        if not draw:
            return ""
        message = f"draw of a split\0{self._split}\0{patient_id}".encode("utf-8", "surrogatepass")
        mask = hmac.new(self._key, message, hashlib.sha256).hexdigest()[: len(draw)]
        return f"{int(draw, 16) ^ int(mask, 16):0{len(draw)}x}"
