"""A killed audit goes on from the pieces it had searched, to the same bytes; nothing of them stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.cohort import Cohort
from pipeline.privacy import run_audit
from pipeline.privacy.partial_results import FOLDER_NAME, Halfway
from pipeline.privacy.search.embedding_cache import cohort_embedding
from pipeline.privacy.search.references import load_references
from pipeline.privacy.search.views import Found, Views
from tests.pipeline.privacy.sets import QUICK

PIECE = 50


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.privacy.partial_results.QUERIES_A_PIECE", PIECE)


def searched_until(monkeypatch: pytest.MonkeyPatch, calls: int) -> list[int]:
    """Let the search be killed after so many pieces; returns the sizes of those it was asked for."""
    sizes: list[int] = []
    search = Views.search

    def dying(self: Views, images: torch.Tensor, *own: object) -> Found:
        if len(sizes) == calls:
            raise KeyboardInterrupt
        sizes.append(len(images))
        return search(self, images, *own)  # type: ignore[arg-type]

    monkeypatch.setattr(Views, "search", dying)
    return sizes


@pytest.mark.usefixtures("small_pieces")
def test_a_killed_audit_searches_only_for_the_rest_and_ends_in_the_same_bytes(
    healthy: Path, gate_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_audit(healthy / "candidates", gate_cohort, tmp_path / "whole", QUICK, seed=0)
    out = tmp_path / "killed"
    with monkeypatch.context() as killed:
        first = searched_until(killed, 3)
        with pytest.raises(KeyboardInterrupt):
            run_audit(healthy / "candidates", gate_cohort, out, QUICK, seed=0)
    kept = sorted((out / FOLDER_NAME).iterdir())
    assert len(kept) == 3 and all(path.stat().st_mode & 0o077 == 0 for path in kept)
    kept[1].write_bytes(kept[1].read_bytes()[:100])
    with monkeypatch.context() as counted:
        second = searched_until(counted, 10_000)
        resumed = run_audit(healthy / "candidates", gate_cohort, out, QUICK, seed=0)
    assert first == [PIECE] * 3
    # 180 candidates are three whole pieces and one of 30: the damaged one is searched for again.
    assert second[:2] == [PIECE, 30]
    assert resumed.digest == whole.digest
    assert not (out / FOLDER_NAME).exists()


def test_pieces_find_what_one_search_finds(gate_cohort: Path, tmp_path: Path) -> None:
    cohort = Cohort(gate_cohort)
    references = load_references(cohort, QUICK, np.random.default_rng(0))
    views = Views(references, cohort_embedding(cohort, references, QUICK).network, QUICK)
    held = np.flatnonzero(~references.in_train)
    images, own = references.images[torch.from_numpy(held)], references.patients[held]
    expected = views.search(images, own)
    halfway = Halfway(tmp_path)
    found = halfway.search("holdout", views, images, own)
    again = halfway.search("holdout", views, images, own)
    for name, view in expected.views.items():
        for field in view.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(found.views[name], field), getattr(view, field))
            np.testing.assert_array_equal(getattr(again.views[name], field), getattr(view, field))
    np.testing.assert_array_equal(again.blend, expected.blend)
    halfway.clear()
    assert not any(tmp_path.iterdir())
