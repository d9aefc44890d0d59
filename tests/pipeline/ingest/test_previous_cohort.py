"""A cohort that continues an earlier one: nobody changes side, and only what has changed is read again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.artifacts.cohort import Cohort
from pipeline.errors import OutputExistsError, UsageError
from pipeline.ingest import run_ingest
from pipeline.ingest.reading import worker
from pipeline.ingest.reading.worker import draw
from pipeline.ingest.settings import IngestSettings
from pipeline.residual import problems, scan_for_values
from pipeline.sources.base import Scan, ScanTask
from pipeline.stage import aside_path
from tests.cohorts import draw as drawn_image
from tests.pipeline.ingest.scans import TABLE_MANIFEST, manifest_of, write_images
from tests.pipeline.test_replacing import mounted

SETTINGS = IngestSettings(image_size=16, workers=1, chunk_scans=8)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that are opened from now on."""
    opened: list[str] = []
    real = worker.read_scans

    def counted(task: ScanTask, *more: Callable[[], None]) -> Iterator[Scan]:
        opened.append(task.name)
        return real(task, *more)

    monkeypatch.setattr(worker, "read_scans", counted)
    return opened


def ingest(folder: Path, out: str = "c", *, force: bool = False, **changes: object) -> Cohort:
    settings = SETTINGS.model_copy(update=changes)
    return Cohort(run_ingest(manifest_of(folder), folder / out, settings, force=force).path)


def add_patients(scans: Path, first: int, count: int) -> None:
    rng = np.random.default_rng(first)
    for patient in range(first, first + count):
        for image in range(2):
            path = scans / ("disc", "bar")[patient % 2] / f"pat{patient:03d}_New_{image}.png"
            Image.fromarray(drawn_image(patient % 2, 40, rng)).save(path)


def by_scan(cohort: Cohort) -> dict[str, tuple[str, str, str, str, bytes]]:
    table = cohort.records()
    pixels = cohort.take(range(len(table)))
    columns = table[["sample_id", "patient_id", "source_sha256", "split", "audit"]].itertuples(index=False)
    return {row[0]: (*row[1:], pixels[at].tobytes()) for at, row in enumerate(columns)}


def test_a_replaced_cohort_reads_only_what_is_new_and_keeps_every_side(
    tmp_path: Path, reads: list[str]
) -> None:
    scans = write_images(tmp_path)
    before = by_scan(ingest(tmp_path))
    add_patients(scans, 100, 6)
    with pytest.raises(OutputExistsError):
        ingest(tmp_path)
    reads.clear()
    after = by_scan(ingest(tmp_path, force=True))
    assert len(reads) == 12
    assert all("New" in name for name in reads)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 12
    assert not aside_path(tmp_path / "c").exists()


def test_what_is_taken_over_equals_what_would_be_read(tmp_path: Path) -> None:
    scans = write_images(tmp_path)
    ingest(tmp_path)
    add_patients(scans, 100, 6)
    continued, fresh = by_scan(ingest(tmp_path, force=True)), by_scan(ingest(tmp_path, "fresh"))
    pixels_and_patients = [{n: (r[0], r[1], r[4]) for n, r in each.items()} for each in (continued, fresh)]
    assert pixels_and_patients[0] == pixels_and_patients[1]


def test_changed_files_are_read_again_and_removed_ones_are_gone(tmp_path: Path, reads: list[str]) -> None:
    scans = write_images(tmp_path)
    before = by_scan(ingest(tmp_path))
    files = sorted(scans.rglob("*.png"))
    Image.fromarray(np.asarray(Image.open(files[3]))[::-1].copy()).save(files[3])
    files[5].unlink()
    reads.clear()
    after = by_scan(ingest(tmp_path, force=True))
    assert [scans / name for name in reads] == [files[3]]
    assert len(before) == len(after) + 1
    assert sum(before[name] != after[name] for name in after) == 1


def test_the_same_files_with_new_times_give_the_same_digest_so_that_nothing_is_trained_again(
    tmp_path: Path, reads: list[str]
) -> None:
    scans = write_images(tmp_path)
    before = ingest(tmp_path)
    for path in scans.rglob("*.png"):
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**10))
    with pytest.raises(OutputExistsError):
        ingest(tmp_path)
    reads.clear()
    again = ingest(tmp_path, force=True)
    assert len(reads) == again.info.num_scans
    assert again.digest == before.digest
    next(scans.rglob("*.png")).unlink()
    assert ingest(tmp_path, force=True).digest != before.digest


def test_what_a_table_says_anew_of_the_same_data_is_noted(tmp_path: Path) -> None:
    scans = write_images(tmp_path)
    table = pd.DataFrame({"file": sorted(str(path.relative_to(scans)) for path in scans.rglob("*.png"))})
    table["part"] = np.where(table["file"].str.contains("pat00"), "test", "train")
    notes = []
    for part in ("test", "train"):
        table.loc[0, "part"] = part
        table.to_csv(tmp_path / "table.csv", index=False)
        made = run_ingest(manifest_of(tmp_path, TABLE_MANIFEST), tmp_path / "c", SETTINGS, force=True)
        notes.append(Cohort(made.path).info.notes)
    told = [f"published split official: {n} patients stand in both train and test" for n in (0, 1)]
    assert [said in own for said, own in zip(told, notes, strict=True)] == [True, True]


def test_other_settings_read_everything_again(tmp_path: Path, reads: list[str]) -> None:
    write_images(tmp_path)
    ingest(tmp_path)
    reads.clear()
    ingest(tmp_path, force=True, image_size=24)
    assert len(reads) == 48


def test_refused_files_stay_refused_without_being_opened(tmp_path: Path, reads: list[str]) -> None:
    scans = write_images(tmp_path)
    (scans / "bar" / "pat001_broken.png").write_bytes(b"not an image")
    ingest(tmp_path)
    add_patients(scans, 100, 2)
    reads.clear()
    ingest(tmp_path, force=True)
    assert len(reads) == 4
    assert len(pd.read_parquet(tmp_path / "c" / "rejected.parquet")) == 1


def test_a_named_earlier_cohort_is_continued_elsewhere_and_stays(tmp_path: Path, reads: list[str]) -> None:
    scans = write_images(tmp_path)
    first = ingest(tmp_path)
    before = by_scan(first)
    add_patients(scans, 100, 4)
    reads.clear()
    second = ingest(tmp_path, "d", previous=tmp_path / "c")
    assert len(reads) == 8
    assert {name: by_scan(second)[name] for name in before} == before
    assert by_scan(Cohort(tmp_path / "c")) == before
    reads.clear()
    again = ingest(tmp_path, "d", previous=tmp_path / "c")
    assert (reads, again.digest) == ([], second.digest)


def test_a_cohort_named_as_its_own_successor_is_continued_in_place(tmp_path: Path, reads: list[str]) -> None:
    scans = write_images(tmp_path)
    before = by_scan(ingest(tmp_path))
    add_patients(scans, 100, 2)
    reads.clear()
    after = by_scan(ingest(tmp_path, force=True, previous=tmp_path / "c"))
    assert len(reads) == 4
    assert {name: after[name] for name in before} == before


def test_other_shares_draw_the_split_anew(tmp_path: Path) -> None:
    write_images(tmp_path, patients=60)
    before = by_scan(ingest(tmp_path))
    after = by_scan(ingest(tmp_path, force=True, test_share=0.4))
    assert sum(before[name][2] != after[name][2] for name in before) > 10


def test_an_earlier_cohort_of_another_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path)
    ingest(tmp_path)
    monkeypatch.setenv("PHOSPHOR_KEY", "7a" * 32)
    with pytest.raises(UsageError, match="another pseudonym key"):
        ingest(tmp_path, "d", previous=tmp_path / "c")


def test_killed_while_it_replaces_the_earlier_cohort_waits_and_the_next_run_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = write_images(tmp_path)
    ingest(tmp_path)
    shutil.copytree(tmp_path / "c", tmp_path / "copy")
    add_patients(scans, 100, 6)
    undisturbed = ingest(tmp_path, "d", previous=tmp_path / "copy")
    from pipeline.ingest import stage as run

    def dies(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(run, "write_cohort", dies)
        ingest(tmp_path, force=True)
    assert (aside_path(tmp_path / "c") / "reference.json").is_file()
    resumed = ingest(tmp_path, force=False)
    assert by_scan(resumed) == by_scan(undisturbed)
    assert resumed.digest == undisturbed.digest
    assert not aside_path(tmp_path / "c").exists()


def test_killed_right_after_the_earlier_cohort_was_set_aside_it_is_continued_all_the_same(
    tmp_path: Path, reads: list[str]
) -> None:
    scans = write_images(tmp_path)
    before = by_scan(ingest(tmp_path))
    (tmp_path / "c").rename(aside_path(tmp_path / "c"))
    add_patients(scans, 100, 2)
    reads.clear()
    after = by_scan(ingest(tmp_path))
    assert len(reads) == 4
    assert {name: after[name] for name in before} == before


def test_a_cohort_on_a_mount_point_is_not_emptied_to_be_continued(tmp_path: Path, reads: list[str]) -> None:
    scans = write_images(tmp_path)
    with mounted(tmp_path / "c", "tmpfs") as out:
        before = by_scan(ingest(tmp_path))
        add_patients(scans, 100, 2)
        reads.clear()
        with pytest.raises(OutputExistsError, match="mount point"):
            ingest(tmp_path, force=True)
        assert reads == []
        assert by_scan(Cohort(out)) == before


def test_no_draw_and_no_name_can_be_read_from_what_is_kept(tmp_path: Path) -> None:
    write_images(tmp_path)
    ingest(tmp_path)
    patients = [f"pat{number:03d}" for number in range(24)]
    draws = [draw(0, "drawn", patient) for patient in patients]
    values = [*draws, "Smith", *(f"{patient}_Smith" for patient in patients)]
    assert problems(scan_for_values(tmp_path / "c", values)) == []
    assert (tmp_path / "c" / "reads.parquet").stat().st_mode & 0o777 == 0o600
