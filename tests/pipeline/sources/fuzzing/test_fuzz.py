"""Thousands of damaged files: each is read or refused with a reason, in bounded time and memory."""

from __future__ import annotations

import collections
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.pipeline.sources.fuzzing.cases import FAMILIES, case
from tests.pipeline.sources.fuzzing.runner import Outcome, run_cases

PEAK_MIB = 1024
FEW, ALL = range(400), range(5_000)
REASON = re.compile(r"refused: [A-Za-z0-9][A-Za-z0-9 ,;:()-]{3,80}")


def check(outcomes: list[Outcome]) -> None:
    wrong = [f"{case(found.number)}\n    {found.text}" for found in outcomes if not found.is_fine]
    assert not wrong, f"{len(wrong)} of {len(outcomes)}\n" + "\n".join(wrong[:20])
    greedy = [
        f"{case(found.number)}: {found.peak_mib} MiB" for found in outcomes if found.peak_mib > PEAK_MIB
    ]
    assert not greedy, "\n".join(greedy)
    reasons = {found.text for found in outcomes if found.text.startswith("refused")}
    assert not [text for text in reasons if not REASON.fullmatch(text)]


def tally(outcomes: list[Outcome]) -> str:
    """Return a table: family, read, refused, and each reason with its number."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for found in outcomes:
        counts[found.family][found.text if found.text.startswith("refused") else found.text.split()[0]] += 1
    slowest = max(outcomes, key=lambda found: found.seconds)
    largest = max(outcomes, key=lambda found: found.peak_mib)
    lines = [f"{name}: {sum(found.values())}, {dict(found.most_common())}" for name, found in counts.items()]
    lines.append(f"slowest: {slowest.seconds} s, {case(slowest.number)}")
    lines.append(f"largest: {largest.peak_mib} MiB, {case(largest.number)}")
    return "\n".join(lines)


def test_the_same_number_gives_the_same_file_and_most_numbers_damage_it() -> None:
    numbers = [number for number in range(100) if FAMILIES[number % len(FAMILIES)].seeds()]
    made = [case(number) for number in numbers]
    assert made == [case(number) for number in numbers]
    whole = [data for family in FAMILIES for data in family.seeds().values()]
    damaged = [found for found in made if found is not None and found.data not in whole]
    assert len(damaged) > 0.9 * len(made)


def test_every_seed_family_has_files_that_are_read_undamaged() -> None:
    """What damage does says nothing where the undamaged file is refused at once."""
    outcomes = run_cases([-1 - number for number in range(len(FAMILIES))])
    assert {found.text.split()[0] for found in outcomes} <= {"read", "seeds"}


def test_a_few_hundred_damaged_files_are_read_or_refused() -> None:
    check(run_cases(FEW))


@pytest.mark.slow
def test_five_thousand_damaged_files_are_read_or_refused() -> None:
    workers = min(2, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        parts = pool.map(run_cases, [ALL[start::workers] for start in range(workers)])
        outcomes = [found for part in parts for found in part]
    print(tally(outcomes))
    check(outcomes)
