"""MedMNIST archives: several findings a row, several sizes, rows read as a stream."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.errors import DataError, ScanRefusedError
from pipeline.manifest import load_manifest
from pipeline.manifest.kinds.medmnist import MedmnistSource
from pipeline.manifest.rules import ImageCheck, PatientRule
from pipeline.sources.base import ReadRule, ScanTask
from pipeline.sources.listing import list_scans
from pipeline.sources.medmnist import RowStream, load_labels, rows
from pipeline.sources.reading import read_scan
from pipeline.sources.tables.patients import patient_of_rows
from tests.pipeline.manifest.trees import MANIFESTS, Ingested, ingest_set


def images(count: int, size: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size), dtype=np.uint8)


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    folder = tmp_path_factory.mktemp("chest")
    (folder / "chestmnist").mkdir()
    train = np.concatenate(
        [np.zeros((3, 14), np.uint8), np.eye(14, dtype=np.uint8), np.eye(14, dtype=np.uint8)]
    )
    train[2, [2, 4]] = 1  # effusion and mass
    test = np.zeros((2, 14), np.uint8)
    test[1, 13] = 1
    for size, suffix in ((28, ""), (64, "_64")):
        np.savez_compressed(
            folder / "chestmnist" / f"chestmnist{suffix}.npz",
            train_images=images(31, size), train_labels=train,
            val_images=images(2, size, 1), val_labels=np.array([[1] + [0] * 13, [3] + [0] * 13], np.uint8),
            test_images=images(2, size, 2), test_labels=test,
        )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHOSPHOR_DATA", str(folder))
        return ingest_set("chestmnist", folder)


def test_chestmnist_gives_each_row_a_class_and_its_findings(chest: Ingested) -> None:
    labels = chest.labels()
    assert labels["train/0"] == "no_finding"
    assert labels["train/2"] == "mass"
    assert chest.findings("train/2") == {"effusion": "present", "mass": "present"}
    assert labels["test/1"] == "hernia"
    assert labels["val/0"] == "atelectasis"
    assert chest.refused == {"val/1": "label not listed in the manifest"}
    assert set(chest.records.index[chest.records["split"] == "test"]) == {"test/0", "test/1"}
    assert not chest.cohort.info.has_patient_ids
    assert chest.cohort.info.findings[0] == "atelectasis"


@pytest.mark.parametrize("name", ["chestmnist", "pneumoniamnist_plus"])
def test_the_smallest_size_that_is_not_below_the_images_is_taken(name: str) -> None:
    source = load_manifest(MANIFESTS / f"{name}.yaml").sources[0]
    assert isinstance(source, MedmnistSource)
    chosen = {wanted: source.chosen(wanted) for wanted in (None, 8, 28, 29, 64, 128, 129, 224, 256)}
    kind = name.removesuffix("_plus")
    suffixes = {wanted: (path or "").partition(f"{kind}/{kind}")[2] for wanted, (path, _) in chosen.items()}
    assert suffixes == {
        None: ".npz", 8: ".npz", 28: ".npz", 29: "_64.npz", 64: "_64.npz", 128: "_128.npz", 129: "_224.npz",
        224: "_224.npz", 256: "_224.npz",
    }  # fmt: skip
    for path, download in chosen.values():
        assert download is not None
        assert download.url.endswith(f"{(path or '').rpartition('/')[2]}?download=1")
    assert len({download.md5 for _, download in chosen.values() if download}) == 4


def test_the_listing_reads_the_file_of_the_size_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pneumoniamnist").mkdir()
    for size, suffix in ((28, ""), (64, "_64")):
        np.savez(
            tmp_path / "pneumoniamnist" / f"pneumoniamnist{suffix}.npz",
            train_images=images(4, size), train_labels=np.array([[0], [1], [0], [1]], np.uint8),
        )  # fmt: skip
    monkeypatch.setenv("PHOSPHOR_DATA", str(tmp_path))
    manifest = load_manifest(MANIFESTS / "pneumoniamnist_plus.yaml")
    for wanted, size in ((28, 28), (64, 64)):
        task = list_scans(manifest, image_size=wanted).tasks[1]
        assert read_scan(task).pixels.shape == (size, size)


@pytest.mark.parametrize(("ours", "theirs"), [(32, 64), (64, 32), (32, 32)])
def test_patients_are_believed_only_where_the_images_agree_whichever_is_larger(
    tmp_path: Path, ours: int, theirs: int
) -> None:
    def scaled(stack: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
        return stack.repeat(size // 16, axis=1).repeat(size // 16, axis=2)

    known = images(300, 16)
    other = known.copy()
    other[7] = images(1, 16, 5)
    labels = np.zeros((300, 1), np.uint8)
    np.savez_compressed(tmp_path / "ours.npz", train_images=scaled(known, ours), train_labels=labels)
    np.savez_compressed(tmp_path / "theirs.npz", train_images=scaled(other, theirs), train_labels=labels)
    (tmp_path / "t.csv").write_text("split,index,who\n" + "".join(f"train,{n},p{n}\n" for n in range(299)))
    check = ImageCheck(path="theirs.npz")
    rule = PatientRule(table="t.csv", keys=("split", "index"), column="who", verify_images=check, prefix="x-")
    archives = [tmp_path / "ours.npz", tmp_path / "theirs.npz"]
    confirmed, claimed = patient_of_rows(rule, tmp_path / "t.csv", *archives)
    assert claimed == {"train/7": "x-p7"}
    assert len(confirmed) == 298
    assert confirmed["train/298"] == "x-p298"


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2"])
def test_rows_come_in_any_order_and_are_those_of_the_array(
    tmp_path: Path, compressed: bool, dtype: npt.DTypeLike
) -> None:
    made = np.random.default_rng(1).integers(0, 250, (9, 5, 7)).astype(dtype)
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "a.npz", images=made, labels=np.zeros(9, np.int64))
    stream = RowStream(tmp_path / "a.npz", "all")
    for number in (0, 1, 4, 4, 2, 8, 0):
        assert (stream.row(number) == made[number]).all()
        assert stream.row(number).dtype.isnative
    assert (np.concatenate(list(stream.blocks(4))) == made).all()
    with pytest.raises(ScanRefusedError, match="row missing"):
        stream.row(9)
    task = ScanTask(ReadRule("medmnist", str(tmp_path / "a.npz"), store="npz"), "all/3")
    assert (read_scan(task).pixels == made[3]).all()


def test_memory_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    made = np.zeros((400, 200, 200), np.uint8)
    made[:, 0, 0] = np.arange(400) % 256
    np.savez_compressed(tmp_path / "a.npz", images=made, labels=np.zeros(400, np.uint8))
    del made
    tracemalloc.start()
    try:
        assert len(list(rows(tmp_path / "a.npz"))) == 400
        stream = RowStream(tmp_path / "a.npz", "all")
        assert [int(stream.row(number)[0, 0]) for number in (5, 399, 17)] == [5, 143, 17]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20  # the images are 16 MB


@pytest.mark.parametrize("damage", ["cut", "colour", "claim", "labels", "columns", "float"])
def test_a_damaged_archive_is_a_data_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.npz"
    good = {"images": images(6, 32), "labels": np.zeros((6, 1), np.uint8)}
    if damage == "colour":
        good["images"] = np.zeros((6, 8, 8, 3), np.uint8)
    elif damage == "columns":
        good["labels"] = np.zeros((6, 3), np.uint8)
    elif damage == "float":
        good["labels"] = np.zeros((6, 1))  # type: ignore[assignment]
    np.savez(path, **good)  # type: ignore[arg-type]
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "claim":
        path.write_bytes(content.replace(b"(6, 32, 32)", b"(9, 32, 32)"))
    elif damage == "labels":
        path.write_bytes(content.replace(b"'shape': (6, 1)", b"'shape': (9, 1)"))
    with pytest.raises(DataError):
        list(rows(path))


def test_labels_that_claim_to_be_huge_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=images(6, 8), labels=np.zeros((6, 100), np.uint8))
    content = (tmp_path / "a.npz").read_bytes()
    claim = content.replace(b"'shape': (6, 100), }", b"'shape': (99999999999,)")
    assert claim != content
    (tmp_path / "a.npz").write_bytes(claim)
    with pytest.raises(DataError):
        load_labels(tmp_path / "a.npz", "all")
