"""Settings of the evaluate stage."""

from __future__ import annotations

import shlex
from typing import Annotated

from pydantic import Field, model_validator

from pipeline.config import Settings
from pipeline.evaluate.arm_names import RealArm, SyntheticArm

_MINUTES = 30.0


def is_own(classifier: str) -> bool:
    """Return whether `evaluate.classifier` names a function or a program of the user's own."""
    return classifier == "command" or ":" in classifier


class EvaluateSettings(Settings):
    """Settings of the evaluation; all utility arms share the classifier's settings and number of steps."""

    seeds: int = Field(5, ge=1, le=100, description="Number of classifier seeds per utility arm.")
    classifier: str = Field(
        "small_cnn",
        pattern=r"^(small_cnn|resnet18|densenet121|command|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
        description="Built-in classifier: small_cnn, or resnet18 or densenet121 of MONAI; or "
        "module:function, a function of your own that Python can import "
        "(pipeline.evaluate.training.FitPredict); or command, a program of your own (evaluate.command).",
    )
    command: str = Field(
        "",
        max_length=4000,
        description="Program with its arguments, started without a shell; it gets the folder of one training "
        "as its last argument. With evaluate.classifier=command only.",
    )
    classifier_minutes: float = Field(
        _MINUTES,
        gt=0,
        le=100_000,
        description="Time limit for each training of a classifier of your own (module:function or command), "
        "which is then ended.",
    )
    arms: tuple[RealArm | SyntheticArm, ...] = Field(
        (
            "real",
            "real_balanced",
            "real_augmented",
            "real_strong",
            "real_duplicated",
            "real_synthetic",
            "synthetic",
        ),
        min_length=1,
        description="Arms to train. A study trains all of them.",
    )
    strengths: tuple[Annotated[float, Field(gt=0, le=2)], ...] = Field(
        (0.5, 1.0), min_length=1, description="Strengths of the strong augmentation; each is an arm."
    )
    ratios: tuple[Annotated[float, Field(gt=0, le=10)], ...] = Field(
        (0.25, 0.5, 1.0), description="Synthetic images per real image in the mixed arms (above 0, up to 10)."
    )
    num_steps: int = Field(500, ge=1, le=1_000_000, description="Optimiser steps of each classifier.")
    budgets: tuple[Annotated[float, Field(gt=0, le=100)], ...] = Field(
        (1.0,),
        min_length=1,
        description="Multiples of num_steps; a built-in classifier trains each arm at every one. The "
        "synthetic arm that is best on val is compared with the real arms at all of them.",
    )
    max_minutes: float | None = Field(
        None,
        gt=0,
        le=100_000,
        description="Time limit for all built-in classifiers together. All of them take the same number of "
        "steps, fewer than num_steps if the time is too short.",
    )
    batch_size: int = Field(64, ge=2, le=4096, description="Images per step.")
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Peak learning rate (AdamW); none is the built-in classifier's own: 0.004 for small_cnn, "
        "0.001 for the others.",
    )
    weight_decay: float = Field(0.05, ge=0, le=1, description="Weight decay (AdamW).")
    dropout: float = Field(0.3, ge=0, lt=1, description="Dropout before the classifier's last layer.")
    specificity: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="Specificity at which the sensitivity is reported, averaged over the classes.",
    )
    num_resamples: int = Field(1000, ge=100, le=100_000, description="Bootstrap draws of each 95 % interval.")
    encoder_steps: int = Field(500, ge=1, le=1_000_000, description="Optimiser steps of the feature encoder.")
    num_neighbours: int = Field(
        6, ge=0, le=100, description="Released images per class shown with their nearest real scan."
    )

    @model_validator(mode="after")
    def _command_is_there(self) -> EvaluateSettings:
        if self.command and self.classifier != "command":
            raise ValueError(
                "command has no effect without classifier=command: leave one out, or set the other"
            )
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise ValueError(f"command cannot be split into words: {error}") from error
        if self.classifier == "command" and not words:
            raise ValueError("classifier=command needs command, for example command='python train.py'")
        return self

    @property
    def is_own_classifier(self) -> bool:
        """Whether the classifier is a function or a program of the user's own."""
        return is_own(self.classifier)

    @property
    def command_words(self) -> tuple[str, ...]:
        """The program and its arguments; empty without `command`."""
        return tuple(shlex.split(self.command))

    def content_settings(self) -> EvaluateSettings:
        """Return these settings without the time limit of a user's classifier, which changes no result.

        So an evaluation whose classifier took too long can be resumed with a longer limit.
        """
        return self.model_copy(update={"classifier_minutes": _MINUTES})
