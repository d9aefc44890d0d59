"""The commands that check and change nothing: `verify`, `validate` and `doctor`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import emit, reported

EXIT_FOUND = 3

_NOT_WHOLE = (
    "NOT VERIFIED: the source was not read completely, and the output may contain values of the rest. Put it "
    "there as plain files, mend it or take it out, or name the manifest that picks the scans; then verify "
    "again.\n"
)


def verify(
    release: Annotated[
        Path, typer.Argument(help="Release directory; with --against, any output.", show_default=False)
    ],
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="SOURCE",
            help="Manifest, folder or archive of scans whose identifying values must not be in the output.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check a release: nothing missing, extra or changed.

    Checks every checksum, the tables, the synthetic marks and the gate's verdict. With --against, it also
    checks that no name, id, date, UID or text of the source's headers, tables and file names is in any byte
    of it. RELEASE may then be any output (cohort, checkpoint, candidates, audit, evaluation) or a whole run.
    A SOURCE that was not read completely is not verified: exit code 3, with what is missing.

    Not searched for: names under 4 letters by themselves (with the given name they are), numbers under 6
    digits, coded terms, ages and measures; of comments and institutions only numbers, dates, streets and
    words of 6 letters with a capital. A name that is also a word of this program counts as a value, but not
    in the program's own keys and sentences.

    \b
    Example:
      phosphor verify runs/demo/release
      phosphor verify runs/demo --against my_scans.yaml
    """
    with reported():
        from pipeline.release import verify_release

        if against is None:
            emit(verify_release(release))
            return
        _verify_against(release, against)


def _verify_against(output: Path, against: Path) -> None:
    """Search an output for the values of its source; messages name attribute and file, never a value."""
    from pipeline.errors import UsageError
    from pipeline.identity import Pseudonyms, load_key
    from pipeline.manifest import load_manifest
    from pipeline.release import verify_release
    from pipeline.residual.values.collecting import collect_values
    from pipeline.residual.verify_source import verify_against
    from pipeline.sources.unread import unread_notes
    from pipeline.stage import REFERENCE_NAME
    from pipeline.storage import read_json

    if not against.exists():
        raise UsageError(
            "no such file or folder", field="--against", remedy="Pass a manifest or a folder of scans."
        )
    released = None
    if (output / REFERENCE_NAME).is_file():
        recorded = read_json(output / REFERENCE_NAME, role="output")
        if isinstance(recorded, dict) and recorded.get("stage") == "release":
            released = verify_release(output).model_dump(mode="json")
    source = load_manifest(against) if against.suffix.lower() in {".yaml", ".yml"} else against
    with collect_values(source) as values:
        report = verify_against(output, values)
    for reason, count in report.source.not_read.items():
        sys.stderr.write(f"source: {count} files gave no values ({reason})\n")
    if report.source.unread:
        sys.stderr.write(_NOT_WHOLE)
        for note in unread_notes(report.source.unread, Pseudonyms(load_key())):
            sys.stderr.write(note + "\n")
    for reason, count in report.left_out.items():
        sys.stderr.write(f"left out: {count} texts ({reason})\n")
    for leak in report.leaks:
        sys.stderr.write(leak.sentence() + "\n")
    for file, reason in report.not_searched:
        sys.stderr.write(f"not searched: {file} ({reason})\n")
    emit({"stage": "verify", "path": str(output), "release": released, "against": report.body()})
    if not report.clean:
        raise typer.Exit(EXIT_FOUND)


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
                "not_read": facts.not_read,
                "patient_ids": facts.patient_ids.model_dump(exclude_none=True) if facts.patient_ids else None,
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
