"""What of a file's name may be shown: its ending, where that can be no part of somebody's name."""

from __future__ import annotations

_PLAIN = {
    "png", "jpg", "jpeg", "tif", "tiff", "webp", "bmp", "gif", "jp2", "dcm", "dicom", "ima", "nii",
    "gz", "zip", "tar", "npz", "npy", "mha", "mhd", "nrrd", "csv", "tsv", "txt", "json", "xml",
    "xlsx", "html", "pdf", "md", "yaml", "yml", "log", "db", "ini", "sha256",
}  # fmt: skip
"""Endings that are shown. What else stands behind a dot may be part of a name or of a UID."""


def ending_of(name: str) -> str:
    """Return a file's ending as it is spelled, if it is a usual one; it tells of nobody."""
    last = name.rpartition("/")[2]
    stem, dot, ending = last.rpartition(".")
    if not dot or ending.lower() not in _PLAIN:
        return "no ending" if not dot else "another ending"
    double = stem.rpartition(".")[2].lower() if ending.lower() == "gz" else ""
    return f".{stem[-len(double) :]}.{ending}" if double in {"nii", "dcm", "tar"} else f".{ending}"
