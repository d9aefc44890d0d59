"""Found again is another scan of the same patient: not the query, nor the same pixels once more."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.privacy.search.references import References
from tests.experiments.privacy_proof.reidentification import found, one_scan_each, shown_again

PATIENTS = np.array([0, 0, 1, 1, 2, 2, 3])
"""Patient 0 is of train; of the holdout, 1 has two scans, 2 the same scan twice, and 3 one scan."""


def references() -> References:
    images = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    images[5] = images[4]
    in_train = PATIENTS == 0
    return References(
        images=images,
        rows=np.arange(7),
        labels=np.zeros(7, dtype=np.int64),
        patients=PATIENTS,
        in_train=in_train,
        groups=np.where(in_train, 0, 1),
        tuning=~in_train,
    )


def test_one_scan_is_taken_of_each_holdout_patient_who_has_different_ones() -> None:
    queries = one_scan_each(references(), np.random.default_rng(2))
    assert PATIENTS[queries].tolist() == [1]


def test_found_is_another_scan_of_the_patient_and_not_the_query_itself() -> None:
    images, queries = references().images, np.array([2, 4])
    again = shown_again(images, queries)
    assert np.flatnonzero(again[0]).tolist() == [2] and np.flatnonzero(again[1]).tolist() == [4, 5]
    same = (PATIENTS[queries][:, None] == PATIENTS[None, :]) & ~again
    # Both lie nearest to themselves; next come scan 6 and then the patient's own scan.
    similarity = torch.tensor([[0.1, 0.1, 1.0, 0.7, 0.1, 0.1, 0.8], [0.1, 0.1, 0.1, 0.1, 1.0, 1.0, 0.8]])
    assert found(similarity, again, same, 1).tolist() == [False, False]
    assert found(similarity, again, same, 2).tolist() == [True, False]
