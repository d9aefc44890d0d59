"""Repairs a drawn split: every class and finding gets its share of every place, by few and fixed moves."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, replace

import numpy as np

from pipeline.arrays import Bools, Codes, Floats

ANY = 2**40
"""A bound that no count reaches."""

# The worth of a move is three digits of one int64: bounds that come first, then tolerances, then, to choose
# among equals, the distance from the target. Whole numbers add up alike on every machine; floats do not.
_FIRST, _PATIENT, _SHAPE = 2**52, 2**36, 1024.0
_SHAPE_LIMIT = 2.0**24
_IMPOSSIBLE = 2**62
_NOBODY = np.iinfo(np.int64).max

MAX_STRATA = 1000
"""With more strata a digit could run over into the next."""

CHAINS_TRIED, CHAIN_LENGTH = 64, 4
"""Chains of moves that are tried where no single move helps."""


@dataclass(frozen=True)
class Limits:
    """How many groups of each stratum may stand in each place; every array is (P, K).

    Attributes:
        target: the wanted number, a float.
        low, high: the tolerance around it.
        floor, ceiling: bounds that come before every tolerance.
    """

    target: Floats
    low: Codes
    high: Codes
    floor: Codes
    ceiling: Codes

    @staticmethod
    def around(target: Floats, tolerance: float) -> Limits:
        """Return the limits max(1, tolerance * target) around a target; a tolerance of 1 sets none."""
        least, most = np.zeros(target.shape, dtype=np.int64), np.full(target.shape, ANY, dtype=np.int64)
        free = Limits(target, low=least, high=most, floor=least, ceiling=most)
        if tolerance >= 1:
            return free
        width = np.maximum(1.0, tolerance * target)
        # A tenth of ten is one, whatever the last digit of the product.
        low = np.maximum(np.ceil(target - width - 1e-9), 0).astype(np.int64)
        return replace(free, low=low, high=np.floor(target + width + 1e-9).astype(np.int64))

    def violation(self, counts: Codes) -> int:
        """Return the total number of groups by which the counts (P, K) are outside their bounds."""
        return int((_outside(counts, self.floor, self.ceiling) + _outside(counts, self.low, self.high)).sum())

    def step(self, counts: Codes, by: int) -> Codes:
        """Return what it costs, for each place and stratum, when one group leaves (-1) or enters (+1)."""
        first = _outside(counts + by, self.floor, self.ceiling) - _outside(counts, self.floor, self.ceiling)
        patients = _outside(counts + by, self.low, self.high) - _outside(counts, self.low, self.high)
        shape = _SHAPE * (2 * by * (counts - self.target) + 1) / (self.target + 1)
        limited = np.clip(np.rint(shape), -_SHAPE_LIMIT, _SHAPE_LIMIT).astype(np.int64)
        return first * _FIRST + patients * _PATIENT + limited


def count_strata(place: Codes, strata: Bools, num_places: int) -> Codes:
    """Return (P, K): how many groups of each stratum stand in each place.

    Args:
        place: (G,) place of each group, -1 for groups that do not count.
        strata: (G, K) which strata each group belongs to.
        num_places: P.
    """
    return np.stack([strata[place == code].sum(axis=0, dtype=np.int64) for code in range(num_places)])


def settle(
    place: Codes, strata: Bools, draws: Codes, limits: Limits, *, movable: Bools, open_places: Bools
) -> Codes:
    """Move groups between places until every stratum keeps its limits, or no move and no exchange helps.

    Greedy. The move that brings most strata into their limits comes first; among equals the one that keeps
    the shares closest, then the smallest draw. Where no single move helps, `CHAINS_TRIED` chains of at most
    `CHAIN_LENGTH` moves are tried. Every step taken lowers the violation, a whole number, so it ends. Groups
    of the same strata in the same place differ by their draws only: nothing else about them can decide, and
    neither can the order in which they are given.

    Args:
        place: (G,) place of each group, -1 for groups that do not count.
        strata: (G, K) which strata each group belongs to, K at most `MAX_STRATA`.
        draws: (G,) the draws.
        limits: bounds by place and stratum.
        movable: (G,) groups that may be moved.
        open_places: (P,) places that may take groups.

    Returns:
        (G,) the repaired places.
    """
    if not limits.violation(count_strata(place, strata, len(open_places))):
        return place
    repair = _Repair(place.copy(), strata, draws, limits, movable=movable, open_places=open_places)
    while repair.falls():
        pass
    return repair.place


def _outside(counts: Codes, low: Codes, high: Codes) -> Codes:
    return np.maximum(low - counts, 0) + np.maximum(counts - high, 0)


def _patients(worth: Codes) -> Codes:
    """The change of the violation in a worth, without the digit that only chooses among equals."""
    return (worth + _PATIENT // 2) // _PATIENT


@dataclass(frozen=True)
class _Move:
    kind: int
    source: int
    to: int


class _Repair:
    """Counts by place and stratum; the movable groups by kind (set of strata) and place, in order of draw."""

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
        self._smallest = np.full((len(kinds), len(open_places)), _NOBODY)
        for key, held in self._stock.items():
            self._smallest[key] = held[0][0]
        self._closed = np.eye(len(open_places), dtype=bool) | ~open_places[None, :]

    def falls(self) -> bool:
        """Make the best moves, or else an exchange; return whether the violation fell."""
        worth = self._worths()
        best = int(_patients(worth.min(initial=_IMPOSSIBLE)))
        if best >= 0:
            return self._exchange(worth)
        # Re-reckoning everything after each move would be quadratic where nearly every group is of its own
        # kind: equally good moves of several kinds are made in one go, each checked again before.
        used: set[int] = set()
        for move in self._ranked(worth, _patients(worth) == best):
            if move.kind not in used and int(_patients(self._worth(move))) == best:
                self._make(move)
                used.add(move.kind)
        return True

    def _worths(self) -> Codes:
        """(U, P, P): what it costs to move a group of a kind from a place to another."""
        leave = self._kinds @ self._limits.step(self._counts, -1).T
        enter = self._kinds @ self._limits.step(self._counts, +1).T
        worth = leave[:, :, None] + enter[:, None, :]
        worth[(self._smallest == _NOBODY)[:, :, None] | self._closed[None]] = _IMPOSSIBLE
        return worth

    def _worth(self, move: _Move) -> Codes:
        leave = self._limits.step(self._counts, -1)[move.source]
        enter = self._limits.step(self._counts, +1)[move.to]
        return self._kinds[move.kind] @ (leave + enter)

    def _ranked(self, worth: Codes, among: Bools) -> list[_Move]:
        kind, source, to = np.nonzero(among)
        order = np.lexsort((to, self._smallest[kind, source], worth[kind, source, to]))
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
        self._smallest[move.kind, move.source] = source[0][0] if source else _NOBODY
        self._smallest[move.kind, move.to] = target[0][0]
        self._counts[move.source] -= self._kinds[move.kind]
        self._counts[move.to] += self._kinds[move.kind]
        self.place[entry[1]] = move.to

    def _exchange(self, worth: Codes) -> bool:
        """Try moves that help one stratum and harm another, each with the best moves that may follow it."""
        leave = self._kinds @ (_patients(self._limits.step(self._counts, -1)) < 0).T
        enter = self._kinds @ (_patients(self._limits.step(self._counts, +1)) < 0).T
        helps = (leave[:, :, None] + enter[:, None, :] > 0) & (worth < _IMPOSSIBLE)
        return any(self._chain(move, worth) for move in self._ranked(worth, helps)[:CHAINS_TRIED])

    def _chain(self, move: _Move, worth: Codes) -> bool:
        """Make a move and the best ones after it until the violation falls; take all back if it does not."""
        made: list[tuple[tuple[int, int], _Move]] = []
        cost = 0
        for _ in range(CHAIN_LENGTH):
            cost += int(_patients(worth[move.kind, move.source, move.to]))
            made.append((self._make(move), move))
            if cost < 0:
                return True
            worth = self._worths()
            for _, done in made:
                worth[done.kind, done.to, done.source] = _IMPOSSIBLE
            if worth.min() == _IMPOSSIBLE:
                break
            move = self._ranked(worth, worth == worth.min())[0]
        for entry, done in reversed(made):
            self._shift(entry, _Move(done.kind, done.to, done.source))
        return False
