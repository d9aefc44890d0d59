"""The commands that check and change nothing: `verify`, `validate` and `doctor`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_frame import emit, reported


def verify(
    release: Annotated[Path, typer.Argument(help="Release directory.", show_default=False)],
) -> None:
    """Check a release: nothing missing, extra or changed.

    Every checksum, the tables, the synthetic marks and the gate's verdict.

    \b
    Example:
      phosphor verify runs/demo/release
    """
    with reported():
        from pipeline.release import verify_release

        emit(verify_release(release))


def validate(
    manifest: Annotated[Path, typer.Argument(help="Data manifest (YAML).", show_default=False)],
) -> None:
    """Check a manifest and that its data is there.

    Reads tables, decodes no scan, writes nothing.

    \b
    Example:
      phosphor validate data_manifests/phantom.yaml
    """
    with reported():
        from flows.validation import reachable_data
        from pipeline.manifest import load_manifest

        described = load_manifest(manifest)
        facts = reachable_data(described)
        for line in facts.lines:
            sys.stderr.write(line + "\n")
        emit(
            {
                "stage": "manifest",
                "name": described.name,
                "digest": described.digest(),
                "counts": facts.counts,
            }
        )


def doctor() -> None:
    """Check this machine.

    Versions, threads, codecs, GPU, key permissions, disk, Prefect address.

    \b
    Example:
      phosphor doctor
    """
    with reported():
        from flows.doctor import examine

        findings = examine()
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            mark = "ok  " if finding.good else "BAD "
            remedy = "" if finding.good else f" - {finding.remedy}"
            sys.stderr.write(f"{mark} {finding.subject:<{width}}  {finding.fact}{remedy}\n")
        bad = [finding.subject for finding in findings if not finding.good]
        emit({"stage": "doctor", "bad": bad, **{finding.subject: finding.fact for finding in findings}})
        if bad:
            raise typer.Exit(1)
