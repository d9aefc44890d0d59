"""Earlier releases of the same patients: a recipient of the next release may have all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.privacy_report import EarlierRelease, read_privacy_report
from pipeline.artifacts.release import read_release
from pipeline.errors import DataError
from pipeline.privacy.earlier_inputs import as_earlier
from pipeline.privacy.search.references import shrink
from pipeline.privacy.settings import AuditSettings


@dataclass(frozen=True)
class EarlierReleases:
    """Earlier releases of the same patients.

    Attributes:
        described: one entry per release, in the order of their digests.
        images: (n, 1, h, w) float32 in [-1, 1] at the search size, of all releases.
        labels: (n,) class codes in the audited cohort.
    """

    described: tuple[EarlierRelease, ...]
    images: torch.Tensor
    labels: Ints


def open_earlier(cohort: Cohort, settings: AuditSettings) -> EarlierReleases:
    """Read and check every release in the settings, without duplicates.

    Raises:
        DataError: one is not a release, or differs from the cohort in classes or image size.
        TamperedError: a file of a release was changed.
    """
    found: dict[str, tuple[EarlierRelease, torch.Tensor, Ints]] = {}
    for path in settings.earlier_releases:
        try:
            release = read_release(path, cohort)
            report = read_privacy_report(path)
        except DataError as error:
            raise as_earlier(error, path) from error
        guarantee = report.differential_privacy
        described = EarlierRelease(
            digest=release.reference.digest,
            images=len(release),
            checkpoint_digest=report.checkpoint_digest,
            same_cohort=report.cohort_digest == cohort.digest,
            epsilon=None if guarantee is None else guarantee.epsilon,
            delta=None if guarantee is None else guarantee.delta,
        )
        found[described.digest] = (described, shrink(release.pixels, settings.search_size), release.labels)
    ordered = [found[digest] for digest in sorted(found)]
    height, width = shrink(cohort.take(cohort.rows("train")[:1]), settings.search_size).shape[-2:]
    return EarlierReleases(
        tuple(described for described, _, _ in ordered),
        torch.cat([torch.empty(0, 1, height, width), *(images for _, images, _ in ordered)]),
        np.concatenate([np.empty(0, dtype=np.int64), *(labels for _, _, labels in ordered)]),
    )
