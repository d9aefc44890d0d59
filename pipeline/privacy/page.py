"""The audit's own private page: the verdict in words, the tables, the closest accepted pairs side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.cohort import Cohort
from pipeline.pictures import data_uri, png_bytes
from pipeline.privacy.foreign import AuditedSet
from pipeline.privacy.gate import Measured
from pipeline.privacy.references import Bools, References
from pipeline.privacy_advice import what_to_change
from pipeline.privacy_report import PrivacyReport
from pipeline.privacy_words import (
    Levels,
    attack_outcomes,
    false_rejects,
    hardest_copy,
    model_words,
    outcome,
    release_words,
    tally,
)
from pipeline.storage import write_text

PAGE_NAME = "report.html"
SHOWN_PAIRS = 12
SHOWN_PIXELS = 112


def write_page(
    folder: Path,
    *,
    report: PrivacyReport,
    audited: AuditedSet,
    cohort: Cohort,
    references: References,
    measured: Measured,
    accepted: Bools,
) -> None:
    """Write `report.html` (mode 0600: it shows real patients), self-contained."""
    from jinja2 import Environment, PackageLoader

    found = measured.found.views["correlation"]
    kept = np.flatnonzero(accepted)
    closest = kept[np.argsort(found.train[kept], kind="stable")[:SHOWN_PAIRS]]
    pairs = []
    for row in closest:
        near = references.rows[found.train_row[row]]
        scale = max(1, SHOWN_PIXELS // max(cohort.info.image_size))
        pairs.append(
            {
                "name": str(audited.table["sample_id"].iloc[row]),
                "synthetic": data_uri(png_bytes(audited.take(np.array([row]))[0], scale=scale)),
                "real": data_uri(png_bytes(cohort.take(np.array([near]))[0], scale=scale)),
                "similarity": 1.0 - float(found.train[row]),
            }
        )
    environment = Environment(loader=PackageLoader("pipeline.privacy"), autoescape=True, trim_blocks=True)
    template = environment.get_template("audit.html.j2")
    levels = Levels.of(report.settings)
    page = template.render(
        report=report,
        steps=what_to_change(report),
        pairs=pairs,
        tally=tally(report),
        test_outcome=lambda test: outcome(test, levels),
        attacks=list(zip(report.membership, attack_outcomes(report), strict=True)),
        release_words=release_words(report),
        model_words=model_words(report),
        false_rejects=false_rejects(report),
        hardest_copy=hardest_copy(report),
    )
    write_text(folder / PAGE_NAME, page, private=True)
