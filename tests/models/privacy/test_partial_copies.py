"""Half copies and blends are found where their sources are, and nothing is where there is no source."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from models.privacy.matching import centre, soften, unit_rows
from models.privacy.partial_copies import (
    BLEND_MARGIN,
    HALVES,
    MAX_CORRELATION,
    _explained,
    blend_isolation,
    half_similarity,
)

SIDE, SIGMA = 28, 4.0


def images(count: int, seed: int) -> Tensor:
    """Return (count, 1, SIDE, SIDE) smooth random fields in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, 9, 9, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic", align_corners=False)
    return (0.4 * fine).clamp(-1, 1)


def similarity(queries: Tensor, references: Tensor, block: int = 256) -> dict[str, Tensor]:
    parts = list(half_similarity(queries, references, sigma=SIGMA, block=block))
    assert [first for first, _ in parts] == list(range(0, len(queries), block))
    return {name: torch.cat([part[name] for _, part in parts]) for name in HALVES}


def isolation(queries: Tensor, references: Tensor, own: Tensor | None = None, **more: int) -> Tensor:
    patients = torch.arange(len(references)) // 2
    found = blend_isolation(
        queries,
        references,
        patients=patients,
        in_train=torch.arange(len(references)) < len(references) * 3 // 4,
        own=torch.full((len(queries),), -1) if own is None else own,
        sigma=SIGMA,
        **more,
    )
    return torch.cat([part for _, part in found])


def test_each_half_of_a_composite_finds_its_own_source() -> None:
    known = images(40, 1)
    middle = SIDE // 2
    sideways = torch.cat([known[:10, ..., :middle], known[10:20, ..., middle:]], dim=-1)
    upright = torch.cat([known[:10, :, :middle], known[10:20, :, middle:]], dim=-2)
    found = similarity(torch.cat([sideways, upright]), known)
    for name, rows, sources in (
        ("left", slice(0, 10), range(10)),
        ("right", slice(0, 10), range(10, 20)),
        ("top", slice(10, 20), range(10)),
        ("bottom", slice(10, 20), range(10, 20)),
    ):
        assert found[name][rows].argmax(dim=1).tolist() == list(sources)
        assert found[name][rows].amax(dim=1).min() > 0.97


def test_halves_are_found_mirrored_shifted_brightened_and_in_any_block() -> None:
    known = images(30, 2)
    moved = torch.nn.functional.pad(known, (1, 1, 1, 1), mode="replicate")[..., 2:, :SIDE]
    altered = (0.7 * moved.flip(-1) + 0.1).clamp(-1, 1)
    found = similarity(altered, known)
    # The left half of a mirrored image is the right one of its source, mirrored back.
    for name in HALVES:
        assert found[name].argmax(dim=1).tolist() == list(range(30))
    for name, score in similarity(altered, known, block=7).items():
        torch.testing.assert_close(score, found[name], rtol=1e-5, atol=1e-5)


def test_blends_of_two_train_images_stand_out_and_others_do_not() -> None:
    known = images(80, 3)
    blends = torch.cat([
        0.5 * (known[0:10] + known[10:20]),
        0.35 * known[0:10] + 0.65 * known[20:30],
        0.5 * (known[0:10] + known[10:20].flip(-1)),
    ])  # fmt: skip
    of_holdout = 0.5 * (known[60:70] + known[70:80])
    strangers = images(40, 4)
    assert isolation(blends, known).max() < -1.5
    assert isolation(of_holdout, known).min() > -0.1
    assert isolation(strangers, known).min() > -1.0


def test_isolation_is_that_of_trying_every_pair() -> None:
    known = images(8, 11)
    queries = torch.cat([0.6 * known[:1] + 0.4 * known[4:5].flip(-1), images(5, 12)])
    rows, asked = (
        unit_rows(centre(soften(own), BLEND_MARGIN), SIGMA).double()
        for own in (torch.cat([known, known.flip(-1)]), queries)
    )
    patient, trained = [row % 8 // 2 for row in range(16)], [row % 8 < 6 for row in range(16)]

    def distance(query: Tensor, pair: tuple[int, int]) -> float:
        both = rows[list(pair)].T
        weights = torch.linalg.lstsq(both, query[:, None]).solution[:, 0]
        if weights.min() <= 0 or float(both[:, 0] @ both[:, 1]) >= MAX_CORRELATION:
            return 1.0
        return max(1e-3, 1.0 - float((both @ weights).norm()))

    pairs = [pair for pair in itertools.combinations(range(16), 2) if patient[pair[0]] != patient[pair[1]]]
    expected = []
    for query in asked:
        best, first, second = min(
            (distance(query, pair), *pair) for pair in pairs if trained[pair[0]] and trained[pair[1]]
        )
        named = {patient[first], patient[second]}
        free = min(distance(query, pair) for pair in pairs if not named & {patient[row] for row in pair})
        expected.append(math.log(best) - math.log(free))
    found = isolation(queries, known, shortlist=16)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=1e-4, atol=1e-4)


def test_a_copy_is_explained_by_its_source_alone_where_rounding_leaves_nothing_for_a_second() -> None:
    alike, nothing = torch.tensor([[1.0, 0.9995, 0.9, -1.0]]), torch.zeros(1, 4, 3)
    torch.testing.assert_close(_explained(alike, nothing, 1e-3), torch.tensor([[1.0, 0.9995**2, 0.0, 0.0]]))
    some = nothing + 0.1
    expected = torch.tensor([[1.01, 0.9995**2 + 0.01, 0.82, 0.0]])
    torch.testing.assert_close(_explained(alike, some, 1e-3), expected)


def test_own_images_are_left_out_and_batches_do_not_matter() -> None:
    known = images(40, 5)
    queries = known[:8]
    own = torch.arange(8) // 2
    assert isolation(queries, known, own).min() > -1.0
    together = isolation(queries, known, own)
    alone = torch.cat([isolation(queries[i : i + 1], known, own[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_no_pair_of_train_images_is_no_blend() -> None:
    known = images(12, 6)
    found = blend_isolation(
        images(3, 7),
        known,
        patients=torch.arange(12),
        in_train=torch.zeros(12, dtype=torch.bool),
        own=torch.full((3,), -1),
        sigma=SIGMA,
    )
    assert torch.cat([part for _, part in found]).min() >= 0


def test_an_image_too_small_for_halves_is_refused() -> None:
    with pytest.raises(ValueError, match="too small for a margin"):
        list(half_similarity(images(1, 8)[..., :7, :], images(1, 9)[..., :7, :], sigma=SIGMA))
