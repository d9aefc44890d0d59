"""Repairs a drawn split with few, reproducible moves: every place gets its share of classes and findings."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, replace

import numpy as np

from pipeline.arrays import Bools, Codes, Floats

ANY = 2**40
"""A bound that no count reaches."""

# The cost of a move is an int64 of three digits: the bounds, the tolerances and, as a tie-breaker, the
# distance from the target. A sum of integers is the same on every machine; a sum of floats is not.
_FIRST, _PATIENT, _SHAPE = 2**52, 2**36, 1024.0
_SHAPE_LIMIT = 2.0**24
_IMPOSSIBLE = 2**62
_NO_DRAW = np.iinfo(np.int64).max

MAX_STRATA = 1000
"""Largest number of strata; with more, a digit of the cost could overflow into the next."""

CHAINS_TRIED, CHAIN_LENGTH = 64, 4
"""Number of chains of moves that are tried when no single move helps, and moves in each."""


@dataclass(frozen=True)
class Limits:
    """Bounds on the number of groups of each stratum in each place; every array is (P, K).

    Attributes:
        target: wanted number of groups.
        low, high: tolerance around the target.
        floor, ceiling: bounds that have priority over every tolerance.
    """

    target: Floats
    low: Codes
    high: Codes
    floor: Codes
    ceiling: Codes

    @staticmethod
    def around(target: Floats, tolerance: float) -> Limits:
        """Return limits of target +- max(1, tolerance * target); a tolerance of 1 sets no limits."""
        least, most = np.zeros(target.shape, dtype=np.int64), np.full(target.shape, ANY, dtype=np.int64)
        free = Limits(target, low=least, high=most, floor=least, ceiling=most)
        if tolerance >= 1:
            return free
        width = np.maximum(1.0, tolerance * target)
        # The margin absorbs the rounding of the product.
        low = np.maximum(np.ceil(target - width - 1e-9), 0).astype(np.int64)
        return replace(free, low=low, high=np.floor(target + width + 1e-9).astype(np.int64))

    def violation(self, counts: Codes) -> int:
        """Return the total number of groups by which the counts (P, K) are outside their bounds."""
        return int((_outside(counts, self.floor, self.ceiling) + _outside(counts, self.low, self.high)).sum())

    def step(self, counts: Codes, by: int) -> Codes:
        """Return (P, K) the cost of one group that leaves (`by` = -1) or enters (+1)."""
        first = _outside(counts + by, self.floor, self.ceiling) - _outside(counts, self.floor, self.ceiling)
        patients = _outside(counts + by, self.low, self.high) - _outside(counts, self.low, self.high)
        shape = _SHAPE * (2 * by * (counts - self.target) + 1) / (self.target + 1)
        limited = np.clip(np.rint(shape), -_SHAPE_LIMIT, _SHAPE_LIMIT).astype(np.int64)
        return first * _FIRST + patients * _PATIENT + limited


def count_strata(place: Codes, strata: Bools, num_places: int) -> Codes:
    """Return (P, K): the number of groups of each stratum in each place.

    Args:
        place: (G,) place of each group, -1 for groups that do not count.
        strata: (G, K) True for the strata of each group.
        num_places: P.
    """
    return np.stack([strata[place == code].sum(axis=0, dtype=np.int64) for code in range(num_places)])


def settle(
    place: Codes, strata: Bools, draws: Codes, limits: Limits, *, movable: Bools, open_places: Bools
) -> Codes:
    """Move groups between places until every stratum is within its limits, or no chain of moves helps.

    The search is greedy. It prefers the move that reduces the violation most, then the one that keeps the
    shares closest to the targets, then the smallest draw. When no single move helps, it tries `CHAINS_TRIED`
    chains of at most `CHAIN_LENGTH` moves. Every step lowers the violation, an integer, so the search ends.
    Of groups with the same strata in the same place, the draw alone decides, never the order of the input.

    Args:
        place: (G,) place of each group, -1 for groups that do not count.
        strata: (G, K) True for the strata of each group, K at most `MAX_STRATA`.
        draws: (G,) split draws.
        limits: bounds by place and stratum.
        movable: (G,) True for groups that may be moved.
        open_places: (P,) True for places that may take groups.

    Returns:
        (G,) the repaired places.
    """
    if not limits.violation(count_strata(place, strata, len(open_places))):
        return place
    repair = _Repair(place.copy(), strata, draws, limits, movable=movable, open_places=open_places)
    while repair.improve():
        pass
    return repair.place


def _outside(counts: Codes, low: Codes, high: Codes) -> Codes:
    return np.maximum(low - counts, 0) + np.maximum(counts - high, 0)


def _violation(cost: Codes) -> Codes:
    """Return the change of the violation that a cost holds, without the tie-breaker."""
    return (cost + _PATIENT // 2) // _PATIENT


@dataclass(frozen=True)
class _Move:
    kind: int
    source: int
    to: int


class _Repair:
    """Counts by place and stratum, and movable groups by kind (set of strata) and place, sorted by draw."""

    def __init__(
        self,
        place: Codes,
        strata: Bools,
        draws: Codes,
        limits: Limits,
        *,
        movable: Bools,
        open_places: Bools,
    ) -> None:
        self.place, self._limits = place, limits
        self._counts = count_strata(place, strata, len(open_places))
        chosen = np.flatnonzero(movable & (place >= 0))
        chosen = chosen[np.argsort(draws[chosen], kind="stable")]
        kinds, kind_of = np.unique(strata[chosen], axis=0, return_inverse=True)
        self._kinds = kinds.astype(np.int64)
        self._stock: dict[tuple[int, int], list[tuple[int, int]]] = {}
        rows = zip(
            kind_of.reshape(-1).tolist(),
            place[chosen].tolist(),
            draws[chosen].tolist(),
            chosen.tolist(),
            strict=True,
        )
        for kind, source, draw, group in rows:
            self._stock.setdefault((kind, source), []).append((draw, group))
        self._smallest = np.full((len(kinds), len(open_places)), _NO_DRAW)
        for key, held in self._stock.items():
            self._smallest[key] = held[0][0]
        self._closed = np.eye(len(open_places), dtype=bool) | ~open_places[None, :]

    def improve(self) -> bool:
        """Make the best moves, or a chain of moves; return whether the violation fell."""
        cost = self._costs()
        best = int(_violation(cost.min(initial=_IMPOSSIBLE)))
        if best >= 0:
            return self._try_chains(cost)
        # Computing all costs after each move would be quadratic if nearly every group is a kind of its own.
        # So equally good moves of several kinds are made together, each after another check.
        used: set[int] = set()
        for move in self._ranked(cost, _violation(cost) == best):
            if move.kind not in used and int(_violation(self._cost(move))) == best:
                self._make(move)
                used.add(move.kind)
        return True

    def _costs(self) -> Codes:
        """Return (U, P, P) the cost of moving a group of each kind from each place to each other place."""
        leave = self._kinds @ self._limits.step(self._counts, -1).T
        enter = self._kinds @ self._limits.step(self._counts, +1).T
        cost = leave[:, :, None] + enter[:, None, :]
        cost[(self._smallest == _NO_DRAW)[:, :, None] | self._closed[None]] = _IMPOSSIBLE
        return cost

    def _cost(self, move: _Move) -> Codes:
        leave = self._limits.step(self._counts, -1)[move.source]
        enter = self._limits.step(self._counts, +1)[move.to]
        return self._kinds[move.kind] @ (leave + enter)

    def _ranked(self, cost: Codes, among: Bools) -> list[_Move]:
        kind, source, to = np.nonzero(among)
        order = np.lexsort((to, self._smallest[kind, source], cost[kind, source, to]))
        rows = np.stack([kind, source, to], axis=1)[order].tolist()
        return [_Move(*row) for row in rows]

    def _make(self, move: _Move) -> tuple[int, int]:
        entry = self._stock[move.kind, move.source][0]
        self._shift(entry, move)
        return entry

    def _shift(self, entry: tuple[int, int], move: _Move) -> None:
        source = self._stock[move.kind, move.source]
        del source[bisect_left(source, entry)]
        target = self._stock.setdefault((move.kind, move.to), [])
        insort(target, entry)
        self._smallest[move.kind, move.source] = source[0][0] if source else _NO_DRAW
        self._smallest[move.kind, move.to] = target[0][0]
        self._counts[move.source] -= self._kinds[move.kind]
        self._counts[move.to] += self._kinds[move.kind]
        self.place[entry[1]] = move.to

    def _try_chains(self, cost: Codes) -> bool:
        """Try moves that help one stratum and harm another, each followed by the best moves after it."""
        leave = self._kinds @ (_violation(self._limits.step(self._counts, -1)) < 0).T
        enter = self._kinds @ (_violation(self._limits.step(self._counts, +1)) < 0).T
        helps = (leave[:, :, None] + enter[:, None, :] > 0) & (cost < _IMPOSSIBLE)
        return any(self._chain(move, cost) for move in self._ranked(cost, helps)[:CHAINS_TRIED])

    def _chain(self, move: _Move, cost: Codes) -> bool:
        """Make a move and the best ones after it until the violation falls; undo all if it does not fall."""
        made: list[tuple[tuple[int, int], _Move]] = []
        total = 0
        for _ in range(CHAIN_LENGTH):
            total += int(_violation(cost[move.kind, move.source, move.to]))
            made.append((self._make(move), move))
            if total < 0:
                return True
            cost = self._costs()
            for _, done in made:
                cost[done.kind, done.to, done.source] = _IMPOSSIBLE
            if cost.min() == _IMPOSSIBLE:
                break
            move = self._ranked(cost, cost == cost.min())[0]
        for entry, done in reversed(made):
            self._shift(entry, _Move(done.kind, done.to, done.source))
        return False
