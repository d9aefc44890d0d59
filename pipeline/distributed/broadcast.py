"""Messages between the processes of a stage: process 0 opens the output, the others follow."""

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
        ranks: processes of the job.
        inputs: JSON-ready values that determine the output.

    Raises:
        UsageError: process 0 has other inputs or settings.
    """
    mine = digest_of(inputs)
    if ranks.broadcast(mine) != mine:
        raise UsageError(
            f"process {ranks.rank} was given another input, recipe or seed than process 0",
            field="RANK",
            value=ranks.rank,
            remedy="Start all processes of the job with the same command, files and version of Phosphor.",
        )


def send_work(ranks: Ranks, work: Any) -> None:
    """Process 0: send the JSON-ready `work` that the others need."""
    ranks.broadcast({"work": work})


def send_reference(ranks: Ranks, reference: Reference) -> None:
    """Process 0: send the reference of the finished stage."""
    ranks.broadcast({"reference": reference.model_dump(mode="json")})


def receive(ranks: Ranks, kind: type[RefT]) -> tuple[RefT | None, Any]:
    """Other processes: return the finished reference, or None and the work from process 0."""
    sent = ranks.broadcast()
    if "reference" in sent:
        return kind(**sent["reference"]), None
    return None, sent["work"]


def receive_reference(ranks: Ranks, kind: type[RefT]) -> RefT:
    """Other processes: return the reference of the stage that process 0 finished."""
    reference, _ = receive(ranks, kind)
    assert reference is not None
    return reference
