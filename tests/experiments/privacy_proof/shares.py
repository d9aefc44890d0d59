"""One row of a table of the proof: a share, its interval, the goal, and whether it is met."""

from __future__ import annotations

from pipeline.wording.power import clopper_pearson


def head(of: str, share: str, *more: str) -> str:
    """Return the head of a table whose rows `tell` prints."""
    titles = [of, share, "95 % interval", "n", "goal", "", *more]
    return "\n| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|"


def tell(name: str, hits: int, total: int, goal: float | None, *more: str) -> bool:
    """Print the row of `hits` of `total`; return whether the goal, a share, is met (None is none)."""
    low, high = clopper_pearson(hits, total)
    met = goal is None or hits >= goal * total
    wanted = ("-", "") if goal is None else (f">= {goal:.0%}", "met" if met else "NOT MET")
    cells = [name, f"{hits / total:.1%}", f"{low:.1%}-{high:.1%}", str(total), *wanted, *more]
    print("| " + " | ".join(cells) + " |", flush=True)
    return met
