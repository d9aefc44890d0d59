"""`study.html` and `study.csv`: table, figure and sentences for each regime and size of a study."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluate.study.report import REGIME_WORDS, StudyReport, StudyRow
from pipeline.rendering.templating import render
from pipeline.report.figures import GRID, MIXED, MUTED, REAL, figure_of, styled, svg_address
from pipeline.storage import write_text

PAGE_NAME, TABLE_NAME = "study.html", "study.csv"
_STATUS = {"helps": "good", "harms": "bad", "could not tell": "warn", "no measurable effect": "none"}


def write_study_page(folder: Path, report: StudyReport) -> Path:
    """Write the page and the table of a study; return the path of the page (private)."""
    write_text(folder / TABLE_NAME, study_table(report), private=True)
    regimes = [
        {
            "name": regime,
            "words": REGIME_WORDS[regime],
            "rows": [_shown(row) for row in report.rows if row.regime == regime],
        }
        for regime in dict.fromkeys(row.regime for row in report.rows)
    ]
    page = render("study.html.j2", report=report, regimes=regimes, figure=study_chart(report))
    write_text(folder / PAGE_NAME, page, private=True)
    return folder / PAGE_NAME


def study_table(report: StudyReport) -> str:
    """Return every arm of every regime and size as CSV."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        (
            "regime",
            "size",
            "sites",
            "seeds",
            "arm",
            "val_auc",
            "test_auc",
            "test_auc_sd_over_sites",
            "change",
            "change_low",
            "change_high",
            "role",
        )
    )
    for row in report.rows:
        for arm in row.arms:
            role = {row.chosen: "chosen", row.rival: "strongest real"}.get(arm.key, "")
            spread = float(np.std(arm.by_site, ddof=1)) if len(arm.by_site) > 1 else ""
            own = arm.difference
            change = ("", "", "") if own is None else (own.value, own.low, own.high)
            where = (row.regime, row.size, row.sites, row.seeds)
            values = (*where, arm.key, arm.val, arm.test, spread, *change, role)
            writer.writerow([f"{value:.5f}" if isinstance(value, float) else value for value in values])
    return stream.getvalue()


def study_chart(report: StudyReport) -> str:
    """Draw test AUC against the number of scans, by regime; return an SVG `data:` address, or ""."""
    regimes = list(dict.fromkeys(row.regime for row in report.rows if row.difference is not None))
    if not regimes:
        return ""
    with styled():
        figure = figure_of(4.8 * len(regimes), 3.2)
        every = figure.subplots(1, len(regimes), squeeze=False)[0]
        for axes, regime in zip(every, regimes, strict=True):
            rows = [row for row in report.rows if row.regime == regime and row.difference is not None]
            places = np.arange(len(rows))
            for label, colour, keys in (
                ("best use of real scans alone", REAL, [row.rival for row in rows]),
                ("with synthetic images, chosen on val", MIXED, [row.chosen for row in rows]),
            ):
                sites = [
                    next(arm.by_site for arm in row.arms if arm.key == key)
                    for row, key in zip(rows, keys, strict=True)
                ]
                means = [float(np.mean(own)) for own in sites]
                axes.plot(places, means, color=colour, marker="o", markersize=4, label=label)
                for place, own in zip(places, sites, strict=True):
                    axes.scatter([place] * len(own), own, color=colour, s=9, alpha=0.4)
            axes.set_xticks(places, [str(row.size) for row in rows])
            axes.set_xlabel("train scans per class of a site")
            axes.set_title(f"Test AUC, {regime}")
            axes.grid(color=GRID)
            axes.tick_params(colors=MUTED)
        every[0].legend(frameon=False, fontsize=8, loc="lower right")
        return svg_address(figure)


def _shown(row: StudyRow) -> dict[str, Any]:
    arms = sorted(row.arms, key=lambda arm: -arm.test)
    return {"row": row, "status": _STATUS.get(row.verdict, "none"), "arms": arms}
