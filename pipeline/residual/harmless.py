"""Texts that are no evidence: words of the program, of the manifest and of the DICOM standard."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path

_PACKAGES = ("pipeline", "flows", "models")
_SUFFIXES = {".py", ".html", ".css", ".js", ".yaml", ".yml", ".json", ".j2", ".md", ".txt"}
_INVENTED = "phantom"
"""Folder of the phantom's invented identities: they count as identifying."""

_MAX_FILE_BYTES = 2**20
_GAPS = re.compile(r"[\W_]+")

_TERMS = (
    "abdomen ankle arm breast cervical spine chest clavicle elbow extremity femur finger foot forearm hand",
    "head hip humerus knee leg lumbar spine neck pelvis ribs sacrum scapula shoulder skull sternum thoracic",
    "thorax tibia toe wrist whole body lung lungs heart original primary derived secondary axial localizer",
    "left right bilateral unpaired anterior posterior lateral oblique frontal supine prone erect upright",
    "portable landmark male female other adult child unknown none anonymous anonymized anonymised",
    "deidentified de identified removed redacted unspecified not specified not available undefined",
    "default standard routine normal abnormal study series image images instance patient sample test train",
    "training validation holdout data dataset dicom dcm nifti nii png jpeg jpg tiff tif json csv",
    "chest pa", "chest ap", "chest lateral", "chest x ray", "x ray", "x ray chest", "thorax pa", "thorax ap",
    "yes no true false correct coerce",
)  # fmt: skip
"""Defined terms of body part, laterality, image type and the like (PS3.3, PS3.16), and file words."""


class Harmless:
    """Tells whether a text says nothing about a person because the program itself, or the manifest, says it.

    Args:
        texts: class names and what else a manifest says of the data set as a whole.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        own = f" {' | '.join(phrase for text in texts if (phrase := _phrase(text)))} "
        self._texts = (_program_text(), _standard_text(), own)
        self._words = frozenset(word for text in self._texts for word in text.split())

    def holds(self, text: str) -> bool:
        """Tell whether all of a text stands, word by word, in what the program or the manifest says.

        A text without any letter (an id, a date) is never harmless.
        """
        phrase = _phrase(text)
        if not any(letter.isalpha() for letter in phrase):
            return False
        words = phrase.split()
        if not all(word in self._words for word in words):
            return False
        return any(f" {phrase} " in known for known in self._texts)


def _phrase(text: str) -> str:
    return " ".join(_GAPS.sub(" ", text.casefold()).split())


@functools.cache
def _program_text() -> str:
    """Return the words of Phosphor's own files, phantom identities excepted, a bar between the files."""
    root = Path(__file__).resolve().parents[2]
    files = sorted(
        path
        for package in _PACKAGES
        for path in (root / package).rglob("*")
        if path.suffix in _SUFFIXES
        and _INVENTED not in path.relative_to(root).parts
        and path.stat().st_size <= _MAX_FILE_BYTES
    )
    texts = (_phrase(path.read_text(encoding="utf-8", errors="replace")) for path in files)
    return f" {' | '.join(texts)} "


@functools.cache
def _standard_text() -> str:
    """Return DICOM's terms and the names of its registered UIDs."""
    from pydicom._uid_dict import UID_dictionary

    words = [word for line in _TERMS for word in (*line.split(), line)]
    names = [entry[0] for entry in UID_dictionary.values()]
    return f" {' | '.join(_phrase(text) for text in (*words, *names))} "
