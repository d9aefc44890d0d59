"""Rules of a folder of NIfTI files."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.manifest.kinds.scan_rules import UntaggedRule


class NiftiSource(UntaggedRule):
    """Folder of NIfTI files (.nii, .nii.gz)."""

    kind: Literal["nifti"]
    projection: Literal["none", "middle", "mean", "max"] = Field(
        "none",
        description="Treatment of volumes: refuse them, or read the middle slice, the mean or the maximum "
        "along `axis`.",
    )
    axis: int = Field(
        1, ge=0, le=2, description="Axis of a volume in RAS+ orientation: 1 gives a frontal view."
    )
    window: tuple[float, float] | None = Field(
        None,
        description="Values mapped to black and white, for example in Hounsfield units for CT; values are "
        "clipped to the window before a projection.",
    )

    @model_validator(mode="after")
    def _rising_window(self) -> Self:
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError("window must be two numbers, the smaller one first")
        return self
