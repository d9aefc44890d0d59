"""What an ingest says beforehand: sources are listed, foreseen where they are not here, and compared."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.cost.estimate import Workload
from pipeline.cost.memory import resident_bytes
from pipeline.errors import DataError
from pipeline.ingest import plan as planning
from pipeline.ingest import run_ingest
from pipeline.ingest.plan import plan_ingest
from pipeline.ingest.reading import pool
from pipeline.ingest.settings import IngestSettings
from pipeline.stage import State
from pipeline.storage import digest_of
from tests.pipeline.ingest.scans import FOLDER_MANIFEST, manifest_of, write_images

SMALL = IngestSettings(image_size=16, workers=1)
PHANTOM = """
  - kind: phantom
    settings: {num_patients: 30, images_per_patient: [2, 4]}
"""
TABLE = FOLDER_MANIFEST.rstrip()


def total(work: Workload) -> int:
    return work.num_train + work.num_val + work.num_test + work.num_holdout


def tree(folder: Path) -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_a_new_file_is_counted_and_the_cohort_is_not_the_same_any_more(tmp_path: Path) -> None:
    scans, out = write_images(tmp_path), tmp_path / "cohort"
    manifest = manifest_of(tmp_path)
    run_ingest(manifest, out, SMALL)
    before = plan_ingest(manifest, out, SMALL)
    assert (before.wanted.state(out), before.changes()) == (State.REUSE, "")
    (scans / "disc" / "pat099_New_0.png").write_bytes((scans / "disc" / "pat000_Smith_0.png").read_bytes())
    files = tree(tmp_path)
    plan = plan_ingest(manifest, out, SMALL)
    assert plan.changes() == "1 new file"
    assert plan.wanted.state(out) is State.REFUSE
    assert plan.wanted.state(out, force=True) is State.REPLACE
    for path in (scans / "disc").glob("pat00[0-4]_Smith_0.png"):
        path.unlink()
    gone = plan_ingest(manifest, out, SMALL)
    assert gone.changes() == "1 new file and 3 missing files"
    assert files >= tree(tmp_path) - {(str(scans / "disc"), (scans / "disc").stat().st_mtime_ns)}
    # The stage itself then does what was said.
    assert run_ingest(manifest, out, SMALL, force=True).counts["scans"] < 48
    assert plan_ingest(manifest, out, SMALL).wanted.state(out) is State.REUSE


def test_files_that_changed_in_place_are_told_without_a_number(tmp_path: Path) -> None:
    scans, out = write_images(tmp_path), tmp_path / "cohort"
    manifest = manifest_of(tmp_path)
    run_ingest(manifest, out, SMALL)
    os.utime(next(scans.rglob("*.png")), (1, 1))
    assert plan_ingest(manifest, out, SMALL).changes() == "files or tables have changed"
    other = plan_ingest(manifest, out, SMALL.model_copy(update={"split_seed": 9}))
    assert other.wanted.state(out) is State.REFUSE


def test_other_settings_alone_are_no_change_of_the_sources(tmp_path: Path) -> None:
    write_images(tmp_path)
    manifest, out = manifest_of(tmp_path), tmp_path / "cohort"
    run_ingest(manifest, out, SMALL)
    plan = plan_ingest(manifest, out, SMALL.model_copy(update={"split_seed": 9}))
    assert (plan.wanted.state(out), plan.changes()) == (State.REFUSE, "")


def test_sources_beside_a_phantom_are_counted_too_and_the_phantom_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOSPHOR_CACHE", str(tmp_path / "cache"))
    write_images(tmp_path, patients=10, images=3)
    alone = plan_ingest(manifest_of(tmp_path), tmp_path / "out", SMALL)
    mixed = plan_ingest(manifest_of(tmp_path, TABLE + PHANTOM), tmp_path / "out", SMALL)
    assert total(alone.foresee().work) == 30
    work = mixed.foresee().work
    assert total(work) == 30 + 30 * 3
    phantom = manifest_of(tmp_path, TABLE + PHANTOM).sources[1].settings  # type: ignore[union-attr]
    kinds = {name for name, weight in phantom.class_weights.items() if weight > 0}
    assert work.num_classes == len(kinds | {"disc", "bar"})
    cost, without = mixed.estimate(), alone.estimate()
    assert cost.disk_bytes > without.disk_bytes + 90 * 16 * 16
    assert cost.seconds > without.seconds
    assert not list((tmp_path / "cache").rglob("*.dcm"))


def test_a_mixed_cohort_is_known_again_whether_its_phantom_still_lies_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOSPHOR_CACHE", str(tmp_path / "cache"))
    scans, out = write_images(tmp_path), tmp_path / "cohort"
    few = "num_patients: 12, class_weights: {normal: 1, mass: 1}"
    manifest = manifest_of(tmp_path, TABLE + PHANTOM.replace("num_patients: 30", few))
    run_ingest(manifest, out, SMALL)
    assert plan_ingest(manifest, out, SMALL).wanted.state(out) is State.REUSE
    monkeypatch.setenv("PHOSPHOR_CACHE", str(tmp_path / "empty"))
    assert plan_ingest(manifest, out, SMALL).wanted.state(out) is State.REUSE
    (scans / "bar" / "pat099_New_0.png").write_bytes((scans / "disc" / "pat000_Smith_0.png").read_bytes())
    assert plan_ingest(manifest, out, SMALL).changes() == "1 new file"


def test_the_memory_of_an_ingest_is_that_of_all_its_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, patients=10, images=2)
    manifest = manifest_of(tmp_path)
    monkeypatch.setattr(pool, "POOL_PAYS_SECONDS", 0.0)
    monkeypatch.setattr("pipeline.cost.estimate.resident_bytes", lambda: 0)
    one, three, six = (
        plan_ingest(manifest, tmp_path / "out", SMALL.model_copy(update={"workers": count})).estimate()
        for count in (1, 3, 6)
    )
    assert one.memory_bytes == 0
    # A worker is a Python with numpy and an image library at the least.
    assert three.memory_bytes > 3 * 20 * 2**20
    assert six.memory_bytes == pytest.approx(2 * three.memory_bytes, rel=0.1)


def test_no_worker_is_counted_where_none_would_start(tmp_path: Path) -> None:
    write_images(tmp_path, patients=10, images=2)
    few = SMALL.model_copy(update={"workers": 4})
    cost = plan_ingest(manifest_of(tmp_path), tmp_path / "out", few).estimate()
    assert 0 < cost.memory_bytes <= resident_bytes()


ARCHIVE = """
name: archive
sources:
  - kind: medmnist
    download: {url: "http://127.0.0.1:9/none.npz", md5: "0123456789abcdef0123456789abcdef"}
    labels: {"0": normal, "1": mass}
"""


def test_what_has_to_be_fetched_is_not_and_its_size_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOSPHOR_CACHE", str(tmp_path / "cache"))
    plan = plan_ingest(manifest_of(tmp_path, ARCHIVE), tmp_path / "out", SMALL)
    assert plan.wanted.state(tmp_path / "out") is State.NEW
    with pytest.raises(DataError, match="not on this machine yet"):
        plan.estimate()


def test_an_archive_that_was_fetched_before_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOSPHOR_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    path = tmp_path / "made.npz"
    np.savez(
        path,
        images=rng.integers(0, 255, (40, 28, 28), dtype=np.uint8),
        labels=np.arange(40).reshape(-1, 1) % 2,
    )
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    fetched = planning.downloaded_path(md5, "archive.npz")
    fetched.parent.mkdir(parents=True)
    path.rename(fetched)
    text = ARCHIVE.replace("0123456789abcdef0123456789abcdef", md5)
    manifest, out = manifest_of(tmp_path, text), tmp_path / "out"
    assert total(plan_ingest(manifest, out, SMALL).foresee().work) == 40
    run_ingest(manifest, out, SMALL)
    assert plan_ingest(manifest, out, SMALL).wanted.state(out) is State.REUSE
    # Without the archive nothing can be compared: the cohort counts as the same.
    fetched.unlink()
    assert plan_ingest(manifest, out, SMALL).wanted.state(out) is State.REUSE
    other = SMALL.model_copy(update={"split_seed": 4})
    assert plan_ingest(manifest, out, other).wanted.state(out) is State.REFUSE


def test_a_plan_makes_no_key_and_knows_no_cohort_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path)
    manifest, out = manifest_of(tmp_path), tmp_path / "cohort"
    run_ingest(manifest, out, SMALL)
    monkeypatch.delenv("PHOSPHOR_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    plan = plan_ingest(manifest, out, SMALL)
    assert plan.wanted.inputs["key"] is None
    assert (plan.wanted.state(out), plan.changes()) == (State.REFUSE, "")
    assert not (tmp_path / "config").exists()


def test_a_cohort_that_continues_an_earlier_one_is_known_again(tmp_path: Path) -> None:
    scans, manifest = write_images(tmp_path), manifest_of(tmp_path)
    first, out = run_ingest(manifest, tmp_path / "first", SMALL), tmp_path / "second"
    (scans / "disc" / "pat099_New_0.png").write_bytes((scans / "disc" / "pat000_Smith_0.png").read_bytes())
    named = SMALL.model_copy(update={"previous": first.path})
    made = run_ingest(manifest, out, named)
    wanted = plan_ingest(manifest, out, named).wanted
    assert (wanted.digest, wanted.inputs["previous"]) == (made.inputs_digest, first.digest)
    # Replaced by force, it continues what lay there.
    forced = run_ingest(manifest, first.path, SMALL, force=True)
    wanted = plan_ingest(manifest, first.path, SMALL).wanted
    assert (wanted.digest, wanted.inputs["previous"]) == (forced.inputs_digest, first.digest)
    assert digest_of(wanted.described) == forced.inputs_digest
