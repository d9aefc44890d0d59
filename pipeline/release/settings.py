"""Settings of a release: which verdicts may leave, and in which formats."""

from __future__ import annotations

from pydantic import Field

from pipeline.config import Settings
from pipeline.errors import UsageError
from pipeline.records import Policy

AVAILABLE_FORMATS = ("png",)
"""Image formats that a release can be written in."""


class ReleaseSettings(Settings):
    """What may be released, and how."""

    policy: Policy = Field(
        default=Policy.STRICT,
        description="gate policy: `strict` releases only PASS, `research` also INCONCLUSIVE; FAIL never",
    )
    formats: tuple[str, ...] = Field(
        default=AVAILABLE_FORMATS, min_length=1, description="image formats to write (available: png)"
    )
    preview_per_class: int = Field(
        default=8, ge=1, le=32, description="images a class in preview.png, drawn at random by the run seed"
    )


def check_formats(settings: ReleaseSettings) -> None:
    """Refuse formats that cannot be written.

    Raises:
        UsageError: a format is unknown.
    """
    unknown = sorted(set(settings.formats) - set(AVAILABLE_FORMATS))
    if unknown:
        raise UsageError(
            "this format cannot be written",
            field="release.formats",
            value=", ".join(unknown),
            remedy=f"Choose among: {', '.join(AVAILABLE_FORMATS)}.",
        )
