"""The whole search on an accelerator: few operations, one wait, and it finds what a processor finds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from models.devices import choices
from models.privacy import tiled_matmul as products
from models.privacy.copy_embedding import CopyEmbedding
from pipeline.privacy.search.embedding_cache import train_embedding
from pipeline.privacy.search.neighbours import FARTHEST, FLOOR, NO_PATIENT, Neighbours, Sides, search_block
from pipeline.privacy.search.references import References
from pipeline.privacy.search.views import VIEWS, Found, Views
from pipeline.privacy.settings import AuditSettings
from tests.pretended import META
from tests.watched import watched

LAUNCH_SECONDS, GOAL_SECONDS = 7e-6, 0.25
SETTINGS = AuditSettings(embedding_steps=2, embedding_batch=8)


def images(count: int, seed: int, size: int = 32) -> torch.Tensor:
    """Return (count, 1, size, size) smooth random fields in [-1, 1]."""
    coarse = torch.randn(count, 1, 9, 9, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    return (0.4 * fine).clamp(-1, 1)


def references(train: int, holdout: int) -> References:
    """Return drawn images, two a patient."""
    count, folds = train + holdout, max(1, round(train / holdout))
    numbers = np.arange(count)
    patients, in_train = numbers // 2, numbers < train
    return References(
        images=images(count, 0),
        rows=numbers,
        labels=numbers % 2,
        patients=patients,
        in_train=in_train,
        groups=np.where(in_train, patients % folds, folds),
        tuning=~in_train & (patients % 2 == 0),
    )


@pytest.fixture(scope="module")
def known() -> References:
    return references(48, 16)


@pytest.fixture(scope="module")
def network(known: References) -> CopyEmbedding:
    return train_embedding(known.images[:48], SETTINGS).network


def queries(known: References) -> torch.Tensor:
    """Return copies, blends of two images, and images of nobody."""
    copied = known.images[:4].flip(-1)
    blended = 0.5 * (known.images[10:14] + known.images[30:34])
    return torch.cat([copied, blended, images(4, 9)])


def test_five_thousand_candidates_are_searched_for_in_few_operations_and_one_wait() -> None:
    with watched() as mode:
        views = Views(references(4708, 624), CopyEmbedding().eval(), AuditSettings(), META)
        mode.operations.clear()
        mode.waits.clear()
        views.search(torch.empty(5_000, 1, 32, 32, device=META))
    launched = sum(mode.operations.values())
    assert 1_000 < launched < 10_000 < GOAL_SECONDS / LAUNCH_SECONDS
    # Nine arrays each of the correlation, four halves, the embedding and the components, and two more: the
    # host waits for the first of them, and all is done by then.
    assert len(mode.waits) == 7 * 9 + 2


@pytest.mark.parametrize("limit", [1_000_000, 0], ids=["all", "shortlist"])
def test_a_search_waits_for_what_it_found_alone(
    known: References, network: CopyEmbedding, limit: int
) -> None:
    own = np.append(known.patients[:3], NO_PATIENT)
    settings = SETTINGS.model_copy(update={"exhaustive_limit": limit, "index_shortlist": 4})
    with watched() as mode:
        views = Views(known, network, settings, META)
        mode.waits.clear()
        found = views.search(torch.empty(4, 1, 32, 32), own)
    # Beyond the limit, which images are looked at is read first.
    assert len(mode.waits) == 7 * 9 + 2 + (limit == 0)
    assert set(found.views) == set(VIEWS) and len(found) == 4


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Make products and blocks on the CPU as an accelerator makes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_raise_one_by_one", products._raise_together)
        patch.setattr(products, "entries_at_once", lambda _: choices("cuda").entries_at_once)
        for module in (
            "models.privacy.matching",
            "models.privacy.partial_copies",
            "pipeline.privacy.search.neighbours",
        ):
            patch.setattr(f"{module}.rows_at_once", lambda entries, _device, *, on_cpu: 2**29 // entries)
        yield


def close(found: Found, expected: Found, tolerance: float) -> None:
    for name, view in expected.views.items():
        other = found.views[name]
        for field in ("train", "holdout", "rest", "folds", "gap"):
            values, wanted = getattr(other, field), getattr(view, field)
            assert values.dtype == np.float64
            np.testing.assert_allclose(values, wanted, atol=tolerance, err_msg=f"{name}.{field}")
        clear = view.gap < -0.1
        np.testing.assert_array_equal(other.patient[clear], view.patient[clear])
    np.testing.assert_allclose(found.blend, expected.blend, atol=tolerance)
    np.testing.assert_allclose(found.redrawn, expected.redrawn, atol=tolerance, rtol=tolerance)


def test_the_way_of_an_accelerator_finds_the_same(known: References, network: CopyEmbedding) -> None:
    expected = Views(known, network, SETTINGS).search(queries(known))
    with as_on_a_gpu():
        assert search_block(known.images) > 512
        found = Views(known, network, SETTINGS).search(queries(known))
    close(found, expected, 1e-3)
    assert (expected.blend[4:8] < -1).all() and (expected.views["correlation"].train[:4] == FLOOR).all()


def test_distances_in_float32_find_the_same(
    known: References, network: CopyEmbedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Views(known, network, SETTINGS).search(queries(known))
    monkeypatch.setattr("models.devices._CHOICES", {"cpu": choices("mps")})
    close(Views(known, network, SETTINGS).search(queries(known)), expected, 1e-3)


def one_by_one(
    similarity: np.ndarray, rows: np.ndarray, own: np.ndarray, known: References
) -> dict[str, list[float]]:
    """Return the neighbours query by query, in plain words; rows (n, k) are those that are looked at."""
    found: dict[str, list[float]] = {name: [] for name in Neighbours.__dataclass_fields__}
    num_folds = int(known.groups.max())
    for query, listed in enumerate(rows):
        distance = {
            int(row): FARTHEST
            if known.patients[row] == own[query]
            else float(np.clip(1.0 - np.float64(similarity[query, row]), FLOOR, FARTHEST))
            for row in listed
        }

        def least(which: dict[int, bool], distance: dict[int, float] = distance) -> float:
            return min([distance[row] for row in distance if which[row]], default=FARTHEST)

        def of(values: np.ndarray, distance: dict[int, float] = distance) -> dict[int, bool]:
            return {row: bool(values[row]) for row in distance}

        trained = [row for row in distance if known.in_train[row]]
        source = min(trained, key=distance.__getitem__)
        best = min(distance, key=distance.__getitem__)
        second = least(of(known.patients != known.patients[best]))
        for name, value in {
            "train": distance[source],
            "train_row": source,
            "holdout": least(of(~known.in_train)),
            "rest": least(of(known.patients != known.patients[source])),
            "folds": [least(of(known.groups == fold)) for fold in range(num_folds)],
            "gap": np.log(distance[best]) - np.log(second),
            "side": bool(known.in_train[best]),
            "patient": int(known.patients[best]),
        }.items():
            found[name].append(value)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_neighbours_are_what_going_through_them_one_by_one_finds(known: References, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Few different values, so that many are equally near: the first of them counts.
    similarity = rng.integers(0, 9, (7, 64)).astype(np.float32) / 8
    own = np.where(rng.random(7) < 0.5, NO_PATIENT, rng.integers(0, 32, 7))
    sides = Sides(known.patients, known.in_train, known.groups, shortlist=3)
    asked, own_there = torch.from_numpy(similarity), torch.from_numpy(own)
    pairs = sides.shortlist(asked, sides.barred(own_there))
    found = sides.of_similarity(asked, own_there).neighbours()
    for name, expected in one_by_one(similarity, pairs.numpy(), own, known).items():
        np.testing.assert_array_equal(getattr(found, name), np.array(expected), err_msg=name)


def test_a_processor_takes_the_blocks_it_always_took() -> None:
    for count, block in ((100, 512), (5_332, 512), (40_000, 419), (1_000_000, 16), (10_000_000, 8)):
        assert search_block(torch.empty(count, 0)) == block
    assert search_block(torch.empty(5_332, 1, 32, 32, device=META)) > 5_000
    # However large the images, a block of them and its tables stay within a few GiB.
    for shape in ((5_332, 1, 256, 256), (1_000_000, 1, 32, 32)):
        block = search_block(torch.empty(shape, device=META))
        assert block >= 8 and block * max(shape[0], 256 * 256) * 4 <= 2**30


def test_an_audit_computes_as_its_device_is_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.privacy import run_audit

    inside: list[torch.device] = []

    @contextmanager
    def computing(device: torch.device) -> Iterator[None]:
        inside.append(device)
        yield
        inside.clear()

    def opened(*_args: object) -> None:
        assert inside == [torch.device("cpu")]
        raise KeyError("opened")

    monkeypatch.setattr("pipeline.privacy.stage.default_device", lambda: torch.device("cpu"))
    monkeypatch.setattr("pipeline.privacy.stage.computing", computing)
    monkeypatch.setattr("pipeline.privacy.stage._open", opened)
    with pytest.raises(KeyError, match="opened"):
        run_audit(tmp_path, tmp_path, tmp_path, AuditSettings(), seed=0)
