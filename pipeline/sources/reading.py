"""Reads one scan of any kind: the function that worker processes call."""

from __future__ import annotations

from pipeline.errors import ScanRefusedError
from pipeline.sources.base import Scan, ScanTask, read_bounded


def read_scan(task: ScanTask) -> Scan:
    """Decode one scan.

    Raises:
        ScanRefusedError: the scan cannot be used; the problem is a short reason without path or header value.
    """
    if task.refusal:
        raise ScanRefusedError(task.refusal)
    kind = task.rule.kind
    if kind == "medmnist":
        from pipeline.sources import medmnist

        return medmnist.read(task)
    if kind == "images":
        from pipeline.sources import images

        return images.read(task)
    if kind == "nifti":
        from pipeline.sources import nifti

        return nifti.read(task)
    from pipeline.sources import dicom

    return next(dicom.read(task, read_bounded(task.rule.root, task.name)))


def read_patient(task: ScanTask) -> str | None:
    """Return the patient id that stands in the file itself, or None: only DICOM files have one.

    Raises:
        ScanRefusedError: the file cannot be read.
    """
    if task.rule.kind != "dicom" or not task.rule.patient_tag:
        return None
    from pipeline.sources import dicom

    return dicom.read_patient(task, read_bounded(task.rule.root, task.name))
