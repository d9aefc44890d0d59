"""Provenance of a release: digests, settings, versions and time, without host, user or path."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import re
from typing import Any

import pipeline
from pipeline.records import Policy, Verdict
from pipeline.release.admission import Admission
from pipeline.release.layout import FORMAT_VERSION
from pipeline.release.settings import ReleaseSettings

_LIBRARIES = ("torch", "monai", "numpy", "pandas", "pyarrow", "pillow", "scipy", "scikit-learn", "pydantic")
_PLACE = re.compile(r"^(/|~|[A-Za-z]:[\\/]|\\\\|file:)")
WITHHELD = "(path withheld)"


def release_note(verdict: Verdict, policy: Policy) -> str:
    """Return the note for the privacy report, the card and the provenance."""
    if verdict is Verdict.PASS:
        return (
            f"PASS, released under the `{policy.value}` policy: no test of the gate failed, and the tests "
            "were strong enough to find planted copies at this size. This is measured privacy risk, "
            "not a proof."
        )
    return (
        f"{verdict.value}, released under the `{policy.value}` policy: no test of the gate failed, but "
        "the tests were too weak to tell. The measured privacy risk of this dataset is therefore UNKNOWN; "
        "the `strict` policy refuses it. Treat it as if it were the patients' data."
    )


def describe(
    admission: Admission,
    settings: ReleaseSettings,
    *,
    seed: int,
    inputs_digest: str,
    content_digest: str,
    counts: dict[str, int],
    uncounted: tuple[str, ...],
    run: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the body of `provenance.json`.

    Args:
        admission: the admitted release.
        settings: the release settings.
        seed: the run seed.
        inputs_digest: as in `reference.json`.
        content_digest: as in `reference.json`.
        counts: as in `reference.json`.
        uncounted: content digests of earlier releases that the audit did not include.
        run: facts about the run (recipe, source licence); paths in it are withheld.
    """
    report = admission.report
    guarantee = report.differential_privacy
    return {
        "format_version": FORMAT_VERSION,
        "synthetic": True,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "software": {"name": "phosphor", "version": pipeline.__version__},
        "environment": environment(),
        "run_seed": seed,
        "release_settings": settings.model_dump(mode="json"),
        "verdict": report.verdict.value,
        "policy": settings.policy.value,
        "policy_note": release_note(report.verdict, settings.policy),
        "digests": {
            "content": content_digest,
            "inputs": inputs_digest,
            "candidates": admission.candidates.digest,
            "audit": admission.audit.digest,
            "checkpoint": report.checkpoint_digest,
            "cohort": report.cohort_digest,
            "earlier_cohorts": list(report.earlier_cohorts),
        },
        "differential_privacy": None if guarantee is None else guarantee.model_dump(mode="json"),
        "earlier_releases": {
            "counted": [part.digest for part in report.earlier_releases],
            "not_counted": [digest or "unknown" for digest in uncounted],
        },
        "counts": counts,
        "run": withhold_paths(run or {}),
    }


def environment() -> dict[str, str]:
    """Return the versions of Python and the libraries and the kind of system; nothing names the machine."""
    found = {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def withhold_paths(value: Any) -> Any:
    """Return a JSON-like value with every string that names a path on this machine replaced."""
    if isinstance(value, dict):
        return {str(withhold_paths(str(key))): withhold_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [withhold_paths(item) for item in value]
    if isinstance(value, str) and _PLACE.match(value):
        return WITHHELD
    return value
