"""Errors with one class per exit code, whose messages have a field, a value and a remedy."""

from __future__ import annotations

KEPT = "Finished work is kept: run the same command again to go on."
"""Note that a stage adds to an error of any kind, after checking that its output still exists."""


class PhosphorError(Exception):
    """Base class of all errors that are shown to the user as one message, without a traceback.

    Args:
        problem: what is wrong, in one sentence, without any identifying value of a patient.
        field: the setting, manifest key, file role or hashed scan id that is wrong (empty if none applies).
        value: the offending value, shown with `repr` (omit it where it could hold patient data).
        remedy: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, problem: str, *, field: str = "", value: object = None, remedy: str = "") -> None:
        self.problem, self.field, self.value, self.remedy = problem, field, value, remedy
        head = f"{field}: {problem}" if field else problem
        shown = f" (got {value!r})" if value is not None else ""
        tail = f" {remedy}" if remedy else ""
        super().__init__(f"{head}{shown}.{tail}")

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross process boundaries (worker pools), so they pickle with their keyword arguments."""
        return _rebuild, (type(self), self.problem, self.field, self.value, self.remedy)


def _rebuild(
    kind: type[PhosphorError], problem: str, field: str, value: object, remedy: str
) -> PhosphorError:
    return kind(problem, field=field, value=value, remedy=remedy)


class UsageError(PhosphorError):
    """The command, recipe or manifest is wrong (exit code 2)."""

    exit_code = 2


class ManifestError(UsageError):
    """A data manifest has a missing, unknown or contradictory key."""


class RecipeError(UsageError):
    """A recipe or a `--set` override has an unknown key or a value out of range."""


class OutputExistsError(UsageError):
    """The output directory has an output of other inputs, or other files."""


class DataError(PhosphorError):
    """The input data cannot be used (exit code 3): unreadable, tampered, or of another cohort."""

    exit_code = 3


class ScanRefusedError(DataError):
    """One scan cannot be used; ingest lists it in `rejected.parquet` and goes on.

    `problem` is a short reason that holds no path and no header value.
    """


class TamperedError(DataError):
    """A file no longer has the digest that was recorded for it."""


class GateRefusedError(PhosphorError):
    """The privacy gate does not allow a release (exit code 4)."""

    exit_code = 4


class TrainingError(PhosphorError):
    """Training cannot go on (non-finite loss, out of memory); the last good checkpoint is kept."""


class StorageError(PhosphorError):
    """The disk is full or cannot be written; what was finished before stays intact."""


class RankFailedError(PhosphorError):
    """Another process of the same job failed; this one ends with the same exit code.

    Args:
        rank: number of that process; None if unknown.
        problem: message of its error.
        exit_code: exit code of its error.
    """

    def __init__(self, rank: int | None, problem: str, exit_code: int) -> None:
        self.rank, self.exit_code = rank, exit_code
        super().__init__(
            f"process {rank} failed: {problem}" if rank is not None else problem,
            remedy="Run the same command again in all processes.",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return RankFailedError, (None, self.problem, self.exit_code)
