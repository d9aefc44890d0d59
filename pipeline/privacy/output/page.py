"""The audit's private page: the verdict in words, the tables, the closest accepted pairs side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.arrays import Bools
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.privacy_report import PrivacyReport
from pipeline.privacy.audited_set import AuditedSet
from pipeline.privacy.gate.gate import Measured
from pipeline.privacy.search.references import References
from pipeline.rendering.pictures import data_uri, png_bytes
from pipeline.rendering.templating import render
from pipeline.storage import write_text
from pipeline.wording.privacy import (
    Levels,
    attack_outcomes,
    false_rejects,
    hardest_copy,
    model_words,
    outcome,
    release_words,
    tally,
)
from pipeline.wording.privacy_advice import what_to_change

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
    """Write the self-contained `report.html` (mode 0600: it shows real patients)."""
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
    levels = Levels.of(report.settings)
    page = render(
        "audit.html.j2",
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
