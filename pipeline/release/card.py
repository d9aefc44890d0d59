"""The dataset card: what the dataset is, what the gate measured, and how to load it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.artifacts.privacy_report import PrivacyReport
from pipeline.records import Policy, Verdict
from pipeline.release.conditions import NO_CONDITIONS, ConditionColumns
from pipeline.release.formats import FORMATS, PNG, ImageFormat
from pipeline.release.layout import CARD_NAME, CSV_NAME, IMAGE_FOLDER, NOT_CLINICAL
from pipeline.release.provenance import release_note
from pipeline.rendering.templating import render
from pipeline.storage import write_text
from pipeline.wording.privacy import false_rejects, release_words, signs_of, tally

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))


def write_card(
    folder: Path,
    *,
    report: PrivacyReport,
    policy: Policy,
    provenance: dict[str, Any],
    source: dict[str, str],
    image_size: tuple[int, int],
    bit_depth: int,
    classes: dict[str, int],
    conditions: ConditionColumns = NO_CONDITIONS,
    formats: Sequence[ImageFormat] = (FORMATS[PNG],),
) -> None:
    """Write `DATASET_CARD.md`: a YAML header for `datasets`, then the text.

    Args:
        folder: the release being written.
        report: the gate's aggregates.
        policy: the release policy.
        provenance: body of `provenance.json`.
        source: `name`, `license`, `citation` of the real scans (empty where unknown).
        image_size: height and width in pixels.
        bit_depth: 8 or 16.
        classes: class name -> label, by label.
        conditions: columns of the conditions that were requested besides the class.
        formats: formats in which the release holds its images.
    """
    total = provenance["counts"]["images"]
    text = render(
        "dataset_card.md.j2",
        header=_header(total),
        report=report,
        note=release_note(report.verdict, policy),
        policy=policy.value,
        provenance=provenance,
        source=source,
        height=image_size[0],
        width=image_size[1],
        bit_depth=bit_depth,
        total=total,
        warning=NOT_CLINICAL,
        classes=classes,
        conditions=conditions,
        formats=formats,
        false_rejects=false_rejects(report),
        said=_said(report),
    )
    write_text(folder / CARD_NAME, text)


def _said(report: PrivacyReport) -> list[str]:
    """Return the outcome of the tests; signs are listed for PASS alone, as other verdicts name them first."""
    near = signs_of(report) if report.verdict is Verdict.PASS else ()
    attacked = release_words(report) or (
        f"Whether the images reveal who was in the training data was not measured: {report.membership_note}."
        if report.membership_note
        else ""
    )
    lines = [tally(report), *(f"There is {sign}." for sign in near), attacked]
    return [line for line in lines if line]


def _header(total: int) -> str:
    size = next((name for limit, name in _SIZES if total < limit), "n>1M")
    body = {
        "pretty_name": "Synthetic X-rays",
        "license": "other",
        "task_categories": ["image-classification"],
        "size_categories": [size],
        "tags": ["synthetic", "medical", "x-ray"],
        "configs": [
            {
                "config_name": "default",
                "drop_labels": True,
                "data_files": [{"split": "train", "path": [CSV_NAME, f"{IMAGE_FOLDER}/**/*.png"]}],
            }
        ],
    }
    return yaml.safe_dump(body, sort_keys=False).strip()
