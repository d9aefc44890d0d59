"""The run's one-page report, for readers who do not program: what was requested, and the results."""

from __future__ import annotations

from pathlib import Path

REPORT_NAME = "report.html"


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder from the outputs that exist so far.

    The page is a single file that opens without a network. It shows real scans: it is private (mode 0600) and
    says so. Outputs that are missing, damaged, or left over from other inputs are named as such. The same
    outputs give the same bytes.

    Args:
        run: the run folder with `cohort`, `checkpoint`, `candidates`, `audit`, `release` and
            `evaluation`, any of which may be absent.

    Returns:
        The path of the page.

    Raises:
        DataError: `run` is not a folder.
        StorageError: the page cannot be written.
    """
    from pipeline.report.folder import open_run
    from pipeline.report.page import render_run
    from pipeline.storage import write_text

    page = render_run(open_run(run))
    path = run / REPORT_NAME
    write_text(path, page, private=True)
    return path
