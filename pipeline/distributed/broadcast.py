"""How the processes of a job do one stage together: process 0 opens its output, the others follow."""

from __future__ import annotations

from typing import Any, TypeVar

from pipeline.distributed.process_group import Ranks
from pipeline.errors import UsageError
from pipeline.records import Reference
from pipeline.storage import digest_of

RefT = TypeVar("RefT", bound=Reference)


def require_same_command(ranks: Ranks, inputs: list[Any]) -> None:
    """Refuse processes that were started with different inputs or settings.

    Args:
        ranks: the processes of the job.
        inputs: JSON-ready values that decide the output.

    Raises:
        UsageError: process 0 has others.
    """
    mine = digest_of(inputs)
    if ranks.same(mine) != mine:
        raise UsageError(
            f"process {ranks.rank} was given another input, recipe or seed than process 0",
            field="RANK",
            value=ranks.rank,
            remedy="Start all processes of the job with the same command, files and version of Phosphor.",
        )


def tell_to_work(ranks: Ranks, told: Any) -> None:
    """Process 0: there is work to do; `told` is what the others need for it."""
    ranks.same({"work": told})


def tell_reference(ranks: Ranks, reference: Reference) -> None:
    """Process 0: the stage is finished."""
    ranks.same({"reference": reference.model_dump(mode="json")})


def hear(ranks: Ranks, kind: type[RefT]) -> tuple[RefT | None, Any]:
    """Another process: return the finished reference, or None and what process 0 tells to work with."""
    said = ranks.same()
    if "reference" in said:
        return kind(**said["reference"]), None
    return None, said["work"]


def hear_reference(ranks: Ranks, kind: type[RefT]) -> RefT:
    """Another process: return the reference that process 0 has finished."""
    reference, _ = hear(ranks, kind)
    assert reference is not None
    return reference
