"""Settings of the release stage: allowed verdicts and file formats."""

from __future__ import annotations

from pydantic import Field

from pipeline.config import Settings
from pipeline.errors import UsageError
from pipeline.records import Policy
from pipeline.release.formats import FORMATS, PNG


class ReleaseSettings(Settings):
    """Settings of the release: gate policy, image formats and preview."""

    policy: Policy = Field(
        default=Policy.STRICT,
        description="gate policy: `strict` releases only PASS, `research` also INCONCLUSIVE; FAIL is never "
        "released",
    )
    formats: tuple[str, ...] = Field(
        default=(PNG,), min_length=1, description=f"image formats to write (available: {', '.join(FORMATS)})"
    )
    preview_per_class: int = Field(
        default=8, ge=1, le=32, description="images per class in preview.png, drawn at random by the run seed"
    )


def check_formats(settings: ReleaseSettings) -> None:
    """Check that all formats can be written.

    Raises:
        UsageError: a format is unknown, or the one that every release has is missing.
    """
    if PNG not in settings.formats:
        raise UsageError(
            f"{PNG} is missing: the tables name its files",
            field="release.formats",
            value=", ".join(settings.formats),
            remedy=f"Add {PNG}.",
        )
    unknown = sorted(set(settings.formats) - FORMATS.keys())
    if unknown:
        raise UsageError(
            "this format cannot be written",
            field="release.formats",
            value=", ".join(unknown),
            remedy=f"Choose from: {', '.join(FORMATS)}.",
        )
