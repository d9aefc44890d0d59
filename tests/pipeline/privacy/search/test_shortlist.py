"""Beyond a limit, views of pixels look at a shortlist: fair to both sides, and it holds sources of copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.privacy.search.embedding_cache import cohort_embedding
from pipeline.privacy.search.neighbours import FLOOR
from pipeline.privacy.search.references import References, load_references, shrink
from pipeline.privacy.search.views import Views
from pipeline.privacy.settings import AuditSettings
from tests.pipeline.privacy.sets import KINDS, QUICK, disguised, fresh


@pytest.fixture(scope="module")
def references(gate_cohort: Path) -> References:
    return load_references(Cohort(gate_cohort), QUICK, np.random.default_rng(0))


def views(gate_cohort: Path, references: References, **changes: int) -> Views:
    settings: AuditSettings = QUICK.model_copy(update=changes)
    return Views(references, cohort_embedding(Cohort(gate_cohort), references, settings).network, settings)


@pytest.fixture(scope="module")
def copies(gate_cohort: Path, references: References) -> tuple[torch.Tensor, Ints]:
    """Return disguised copies of train, ten of each kind, and the rows that they came from."""
    cohort = Cohort(gate_cohort)
    rows = np.random.default_rng(2).permutation(np.flatnonzero(references.in_train))[: 10 * len(KINDS)]
    pixels = cohort.take(references.rows[rows])
    made = [disguised(pixels[i * 10 : i * 10 + 10], kind) for i, kind in enumerate(KINDS)]
    return shrink(np.concatenate(made), QUICK.search_size), rows


def test_a_shortlist_of_all_finds_what_the_whole_search_finds(
    gate_cohort: Path, references: References, copies: tuple[torch.Tensor, Ints]
) -> None:
    images = torch.cat([copies[0][:8], shrink(fresh(8, seed=3)[0], QUICK.search_size)])
    whole = views(gate_cohort, references).search(images)
    most = int(np.bincount(references.groups).max())
    listed = views(gate_cohort, references, exhaustive_limit=0, index_shortlist=most).search(images)
    for name, view in whole.views.items():
        np.testing.assert_array_equal(listed.views[name].train_row, view.train_row)
        for field in ("train", "holdout", "rest", "folds", "gap"):
            found, expected = getattr(listed.views[name], field), getattr(view, field)
            np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(listed.blend, whole.blend, atol=1e-3)
    assert (whole.views["correlation"].train == FLOOR).any(), "an exact copy is among them"


def test_a_short_one_finds_copies_and_lists_both_sides_alike(
    gate_cohort: Path, references: References, copies: tuple[torch.Tensor, Ints]
) -> None:
    images, sources = copies
    whole = views(gate_cohort, references).search(images)
    short = views(gate_cohort, references, exhaustive_limit=0, index_shortlist=8)
    found = short.search(images)
    own = torch.full((len(images),), -1)
    vectors, structure = short._vectors[sources], short._structure[sources]
    listed = short.near_rows(vectors, structure, own)
    assert listed.shape == (len(images), 2 * 8 * (references.num_folds + 1))
    per_fold = np.stack([np.bincount(references.groups[rows]) for rows in listed])
    assert (per_fold == 16).all()
    # Less than half of these few real images is looked at, and holds the source of nearly every copy.
    assert 16 * (references.num_folds + 1) < len(references.rows) / 2
    hit = found.views["correlation"].train_row == sources
    assert hit.mean() >= 0.9 and (whole.views["correlation"].train_row == sources).mean() >= hit.mean()
    np.testing.assert_allclose(
        found.views["correlation"].train[hit], whole.views["correlation"].train[hit], atol=1e-3
    )


def test_an_image_s_own_patient_stays_out(gate_cohort: Path, references: References) -> None:
    held = np.flatnonzero(~references.in_train)[:12]
    short = views(gate_cohort, references, exhaustive_limit=0, index_shortlist=8)
    found = short.search(references.images[torch.from_numpy(held)], references.patients[held])
    for view in found.views.values():
        assert (view.patient != references.patients[held]).all()
