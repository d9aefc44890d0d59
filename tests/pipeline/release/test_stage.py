"""A release holds what the gate accepted, says what the gate said, and never replaces anything unasked."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from pipeline.artifacts.candidates import Candidates
from pipeline.errors import OutputExistsError, TamperedError, UsageError
from pipeline.records import Policy, ReleaseRef, Verdict
from pipeline.release import ReleaseSettings, run_release, verify_release
from pipeline.release.layout import COLUMNS
from pipeline.residual import problems, scan_for_values
from pipeline.stage import load_reference, verify_reference
from tests.pipeline.release.sets import RECORD_IDS, make_audit, make_candidates
from tests.pipeline.test_replacing import mounted

Gated = tuple[Path, Path]
RESEARCH = ReleaseSettings(policy=Policy.RESEARCH)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_release_holds_exactly_the_accepted_images(gated: Gated, tmp_path: Path) -> None:
    reference = run_release(*gated, tmp_path / "release", ReleaseSettings(), seed=1)
    table = pd.read_parquet(tmp_path / "release" / "metadata.parquet")
    opened = Candidates(gated[0])
    accepted = opened.table[opened.table["index"] != 1]
    assert list(table["sample_id"]) == list(accepted["sample_id"])
    assert list(table["seed"]) == list(accepted["seed"])
    assert reference.counts == {"images": 10, "images:mass": 5, "images:normal": 5}
    for row, name in zip(accepted.index, table["file_name"], strict=True):
        with Image.open(tmp_path / "release" / name) as image:
            np.testing.assert_array_equal(np.asarray(image), opened.take([row])[0, 0])
            assert image.text["Synthetic"] == "YES"
    shown = {path.name for path in (tmp_path / "release" / "images").rglob("*.png")}
    assert shown == {f"{name}.png" for name in accepted["sample_id"]}


def test_sixteen_bit_candidates_keep_their_sixteen_bits(tmp_path: Path) -> None:
    candidates = make_candidates(tmp_path / "candidates", bit_depth=16)
    audit = make_audit(tmp_path / "audit", candidates)
    run_release(candidates, audit, tmp_path / "release", ReleaseSettings(), seed=1)
    with Image.open(tmp_path / "release/images/mass/mass-000000.png") as image:
        np.testing.assert_array_equal(np.asarray(image), Candidates(candidates).take([0])[0, 0])


def test_every_row_says_synthetic_and_what_made_it(gated: Gated, release: Path) -> None:
    table = pd.read_csv(release / "metadata.csv")
    assert tuple(table.columns) == COLUMNS
    assert table["synthetic"].all()
    assert set(table["sampler"]) == {"heun"}
    pd.testing.assert_frame_equal(table, pd.read_parquet(release / "metadata.parquet"), check_dtype=False)


def test_the_same_inputs_give_the_same_content_wherever_and_whenever(gated: Gated, tmp_path: Path) -> None:
    first = run_release(*gated, tmp_path / "a", ReleaseSettings(), seed=1)
    second = run_release(*gated, tmp_path / "deep" / "b", ReleaseSettings(), seed=1)
    assert first.digest == second.digest
    one, two = files_of(tmp_path / "a"), files_of(tmp_path / "deep" / "b")
    assert one.keys() == two.keys()
    may_differ = {"provenance.json", "DATASET_CARD.md", "croissant.json", "SHA256SUMS"}  # they hold the time
    assert {name for name in one if one[name] != two[name]} <= may_differ


def test_a_second_run_reuses_the_release_without_writing(gated: Gated, tmp_path: Path) -> None:
    out = tmp_path / "release"
    first = run_release(*gated, out, ReleaseSettings(), seed=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert run_release(*gated, out, ReleaseSettings(), seed=1) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_release_of_other_inputs_is_refused_and_replaced_only_by_force(
    gated: Gated, inconclusive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "release"
    first = run_release(*gated, out, ReleaseSettings(), seed=1)
    before = files_of(out)
    with pytest.raises(OutputExistsError, match="other inputs"):
        run_release(gated[0], inconclusive, out, RESEARCH, seed=1)
    assert files_of(out) == before
    second = run_release(gated[0], inconclusive, out, RESEARCH, seed=1, force=True)
    assert second.inputs_digest != first.inputs_digest
    assert verify_release(out).verdict is Verdict.INCONCLUSIVE
    assert sorted(path.name for path in tmp_path.iterdir()) == [".release.lock", "release", "releases.jsonl"]


def test_a_tampered_release_is_not_reused(gated: Gated, tmp_path: Path) -> None:
    out = tmp_path / "release"
    run_release(*gated, out, ReleaseSettings(), seed=1)
    (out / "metadata.csv").write_text("edited")
    with pytest.raises(TamperedError, match=r"metadata\.csv"):
        run_release(*gated, out, ReleaseSettings(), seed=1)
    run_release(*gated, out, ReleaseSettings(), seed=1, force=True)
    verify_release(out)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_no_release_is_never_replaced(gated: Gated, tmp_path: Path, kind: str, force: bool) -> None:
    out = tmp_path / "release"
    if kind == "file":
        out.write_text("mine")
    else:
        real = out if kind == "folder" else tmp_path / "elsewhere"
        real.mkdir()
        (real / "notes.txt").write_text("mine")
        if kind == "link":
            out.symlink_to(real)
    before = files_of(tmp_path)
    with pytest.raises(OutputExistsError, match="--out"):
        run_release(*gated, out, ReleaseSettings(), seed=1, force=force)
    assert files_of(tmp_path) == before


def fail(*_: object, **__: object) -> None:
    raise AssertionError("work was begun")


@pytest.mark.parametrize("full", [False, True])
def test_a_mount_point_is_refused_before_any_work(
    gated: Gated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    with mounted(tmp_path / "volume", "tmpfs") as out:
        if full:
            run_release(*gated, tmp_path / "release", ReleaseSettings(), seed=1)
            shutil.copytree(tmp_path / "release", out, dirs_exist_ok=True)
        before = files_of(out)
        with monkeypatch.context() as patched:
            patched.setattr("pipeline.release.stage._write", fail)
            with pytest.raises(OutputExistsError, match=r"mount point.*volume/release say"):
                run_release(*gated, out, ReleaseSettings(), seed=2, force=True)
        assert files_of(out) == before
        assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
        verify_release(run_release(*gated, out / "release", ReleaseSettings(), seed=2).path)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
def test_a_disk_that_cannot_exchange_directories_is_told_before_any_work(
    gated: Gated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    out = tmp_path / "release"
    run_release(*gated, out, ReleaseSettings(), seed=1)
    before = files_of(out)
    monkeypatch.setattr("pipeline.release.publish.ctypes.CDLL", lambda *_, **__: NoExchange())
    monkeypatch.setattr("pipeline.release.publish.ctypes.get_errno", lambda: number)
    monkeypatch.setattr("pipeline.release.stage._write", fail)
    with pytest.raises(OutputExistsError, match="cannot exchange"):
        run_release(*gated, out, ReleaseSettings(), seed=2, force=True)
    assert files_of(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".release.lock", "release", "releases.jsonl"]


class NoExchange:
    """A C library on whose file system two directories are not exchanged."""

    def renameat2(self, *_: object) -> int:
        return -1


def test_an_unknown_format_is_refused_with_what_is_available(gated: Gated, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"release\.formats.*'dicom'.*png"):
        run_release(*gated, tmp_path / "r", ReleaseSettings(formats=("png", "dicom")), seed=1)
    assert list(tmp_path.iterdir()) == []


def test_an_inconclusive_release_says_so_everywhere(gated: Gated, inconclusive: Path, tmp_path: Path) -> None:
    out = tmp_path / "release"
    reference = run_release(gated[0], inconclusive, out, RESEARCH, seed=1)
    assert reference.verdict is Verdict.INCONCLUSIVE
    note = json.loads((out / "privacy_report.json").read_text())["policy_note"]
    assert note.startswith("INCONCLUSIVE")
    provenance = json.loads((out / "provenance.json").read_text())
    assert (provenance["policy_note"], provenance["policy"]) == (note, "research")
    card = (out / "DATASET_CARD.md").read_text()
    assert note in card.split("## ")[0]
    assert "12 holdout patients" in card
    assert note in json.loads((out / "croissant.json").read_text())["description"]


def test_the_privacy_report_is_the_audits_but_for_the_policy_note(gated: Gated, release: Path) -> None:
    ours = json.loads((release / "privacy_report.json").read_text())
    audits = json.loads((gated[1] / "privacy_report.json").read_text())
    assert ours.pop("policy_note") != audits.pop("policy_note")
    assert ours == audits


def test_nothing_private_is_in_a_release(gated: Gated, tmp_path: Path) -> None:
    out = tmp_path / "Jane Roe Hospital" / "release"
    run = {"recipe": {"ingest": {"map": "/home/jane.roe/map"}, "list": ["C:\\scans\\roe"]}}
    run_release(*gated, out, ReleaseSettings(), seed=1, provenance=run)
    private = [*RECORD_IDS, str(gated[0]), str(tmp_path), "Jane Roe", "jane.roe", "scans\\roe", "nearest_row"]
    assert problems(scan_for_values(out, [*private, socket.gethostname(), "correlation_train"])) == []
    assert "(path withheld)" in (out / "provenance.json").read_text()


def test_modes_open_the_release_alone(gated: Gated, tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        run_release(*gated, tmp_path / "release", ReleaseSettings(), seed=1)
    finally:
        os.umask(old)
    for path in [tmp_path / "release", *(tmp_path / "release").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644)


def test_the_reference_reads_like_that_of_any_stage(release: Path) -> None:
    assert verify_reference(ReleaseRef, release) == load_reference(ReleaseRef, release)
    assert str(release.parent) not in (release / "reference.json").read_text()


def test_the_card_header_is_yaml_and_outside_text_stays_text(gated: Gated, tmp_path: Path) -> None:
    source = {
        "name": "x\n---\n# <script>alert(1)</script>",
        "license": "CC [BY](http://a)",
        "citation": "{{ 7*7 }}",
    }
    run_release(*gated, tmp_path / "r", ReleaseSettings(), seed=1, provenance={"source": source})
    card = (tmp_path / "r" / "DATASET_CARD.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["task_categories"] == ["image-classification"]
    assert "<script>" not in card
    assert "[BY](" not in card
    assert "49" not in card.split("cite:")[1].split("\n")[0]


def test_the_preview_shows_released_pixels_only(gated: Gated, release: Path) -> None:
    with Image.open(release / "preview.png") as image:
        page = np.asarray(image)
    scale = 96 // 16
    opened = Candidates(gated[0])
    tile = page[32 : 32 + 96, 4 : 4 + 96][::scale, ::scale]
    matches = [row for row in range(len(opened)) if (opened.take([row])[0, 0] == tile).all()]
    assert len(matches) == 1
    assert opened.table.loc[matches[0], "index"] != 1


def test_candidates_without_a_seed_leave_the_cell_empty(tmp_path: Path) -> None:
    candidates = make_candidates(tmp_path / "candidates", seedless=True)
    audit = make_audit(tmp_path / "audit", candidates)
    run_release(candidates, audit, tmp_path / "release", ReleaseSettings(), seed=1)
    assert pd.read_csv(tmp_path / "release" / "metadata.csv")["seed"].isna().all()
    fields = json.loads((tmp_path / "release" / "croissant.json").read_text())["recordSet"][0]["field"]
    assert "seed" not in {field["name"] for field in fields}
