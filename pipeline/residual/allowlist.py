"""Texts that are not evidence: terms of the DICOM standard, placeholders, and texts of a manifest.

A person's name is not harmless because it is also a word. Texts of this program in an output are recognised
where they are found (`own_texts`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

_GAPS = re.compile(r"[\W_]+")

_PLACEHOLDERS = frozenset(
    ("unknown", "none", "anonymous", "anonymized", "anonymised", "deidentified", "redacted", "removed",
     "unspecified", "undefined", "patient", "subject", "scan", "test", "image", "images", "dicom", "phantom",
     "yes", "no", "true", "false", "male", "female", "train", "training", "validation", "holdout")
)  # fmt: skip
"""Words used in place of a name or an id; none of them is a common surname."""

_TERMS = (
    "abdomen ankle arm breast cervical spine chest clavicle elbow extremity femur finger foot forearm hand",
    "head hip humerus knee leg lumbar spine neck pelvis ribs sacrum scapula shoulder skull sternum thoracic",
    "thorax tibia toe wrist whole body lung lungs heart original primary derived secondary axial localizer",
    "left right bilateral unpaired anterior posterior lateral oblique frontal supine prone erect upright",
    "portable landmark male female other adult child unknown none anonymous anonymized anonymised",
    "deidentified de identified removed redacted unspecified not specified available undefined",
    "default standard routine normal abnormal study series image images instance patient sample test train",
    "training validation holdout data dataset dicom dcm nifti nii png jpeg jpg tiff tif json csv",
    "pa ap x ray yes no true false correct coerce",
    "label labels metadata records readme license manifest index list table report phantom",
)  # fmt: skip
"""Defined terms for body parts, laterality, image types and the like (PS3.3, PS3.16), and words for files."""


class Harmless:
    """Recognises texts that do not identify a person.

    Args:
        texts: texts of a manifest that describe the whole data set; headers may contain the same texts.
        labels: names of the data set and of its classes, which folders may have.
    """

    def __init__(self, texts: Iterable[str] = (), labels: Iterable[str] = ()) -> None:
        self._labels = frozenset(map(_phrase, labels))
        self._texts = frozenset(map(_phrase, texts)) | self._labels

    def holds(self, text: str) -> bool:
        """Return whether a header text consists of terms of the standard, or is a text of the manifest."""
        phrase = _phrase(text)
        if not _has_letters(phrase):
            return False
        return self.holds_name(text) or phrase in self._texts or phrase in _standard_names()

    def holds_name(self, text: str) -> bool:
        """Return whether the name of a file or folder consists of standard terms, or names a class."""
        phrase = _phrase(text)
        if not _has_letters(phrase):
            return False
        return phrase in self._labels or all(word in _terms() for word in phrase.split())


def stands_for_a_name(text: str) -> bool:
    """Return whether a person's name consists only of placeholders (`ANONYMOUS^PATIENT`)."""
    words = _phrase(text).split()
    return bool(words) and all(word in _PLACEHOLDERS for word in words)


def _has_letters(phrase: str) -> bool:
    """Return whether a phrase has letters: without them it may be an id or a date, never harmless."""
    return any(letter.isalpha() for letter in phrase)


def _phrase(text: str) -> str:
    return " ".join(_GAPS.sub(" ", text.casefold()).split())


@functools.cache
def _terms() -> frozenset[str]:
    return frozenset(word for line in _TERMS for word in line.split())


@functools.cache
def _standard_names() -> frozenset[str]:
    """Return the names of DICOM's registered UIDs, and the names and keywords of its attributes."""
    from pydicom._dicom_dict import DicomDictionary
    from pydicom._uid_dict import UID_dictionary

    attributes = [(entry[2], entry[4]) for entry in DicomDictionary.values()]
    names = [entry[0] for entry in UID_dictionary.values()] + [name for both in attributes for name in both]
    return frozenset(filter(None, map(_phrase, names)))
