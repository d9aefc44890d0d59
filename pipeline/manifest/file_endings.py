"""File endings that may be shown: they cannot be part of a person's name."""

from __future__ import annotations

_SHOWN = {
    "png", "jpg", "jpeg", "tif", "tiff", "webp", "bmp", "gif", "jp2", "dcm", "dicom", "ima", "nii",
    "gz", "zip", "tar", "npz", "npy", "mha", "mhd", "nrrd", "csv", "tsv", "txt", "json", "xml",
    "xlsx", "html", "pdf", "md", "yaml", "yml", "log", "db", "ini", "sha256",
}  # fmt: skip
"""Endings that are shown. Any other text after a dot may be part of a name or of a UID."""


def ending_of(name: str) -> str:
    """Return the ending of a file name as it is spelled; unusual endings are not shown."""
    stem, dot, ending = name.rpartition("/")[2].rpartition(".")
    if not dot or ending.lower() not in _SHOWN:
        return "no ending" if not dot else "another ending"
    double = stem.rpartition(".")[2].lower() if ending.lower() == "gz" else ""
    return f".{stem[-len(double) :]}.{ending}" if double in {"nii", "dcm", "tar"} else f".{ending}"
