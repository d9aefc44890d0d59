"""Folders, archives and DICOM media: equal content whatever the store, and nothing hostile gets through."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pydicom
import pytest
from pydicom.fileset import FileSet

from pipeline.errors import DataError, ScanRefusedError
from pipeline.phantom import PhantomSettings, write_phantom_cohort
from pipeline.sources.base import ReadRule
from pipeline.sources.stores import Store, drop_unpacked, kind_of, open_store
from pipeline.sources.stores import tar as tar_store
from pipeline.sources.stores.tar import unpacked_path

FILES = {"a/one.bin": b"first" * 100, "a/b/two.bin": os.urandom(5000), "three.bin": b"3"}


def store(path: Path) -> Store:
    return open_store(ReadRule("images", str(path), store=kind_of(path, field="path")))


def content(opened: Store) -> dict[str, bytes | str]:
    """Return the bytes of each entry, or its reason of refusal; nothing of what is passed over."""
    found: dict[str, bytes | str] = {}
    for entry in opened.entries():
        if entry.skipped and not entry.refusal:
            continue
        try:
            found[entry.name] = entry.refusal or opened.read(entry.name)
        except ScanRefusedError as error:
            found[entry.name] = error.problem
    return found


def write_folder(folder: Path) -> Path:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / ".hidden").write_bytes(b"no")
    return folder


def write_tar(path: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in {**FILES, "__MACOSX/a/._one.bin": b"no"}.items():
            add(archive, name, data)
    return path


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **changes: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in changes.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(data))


def write_zip(path: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in {**FILES, ".hidden": b"no"}.items():
            archive.writestr(name, data)
    return path


def test_every_store_lists_and_reads_the_same_files_in_sorted_order(tmp_path: Path) -> None:
    stores = [
        write_folder(tmp_path / "folder"),
        write_zip(tmp_path / "deflated.zip"),
        write_zip(tmp_path / "stored.zip", zipfile.ZIP_STORED),
        write_zip(tmp_path / "lzma.zip", zipfile.ZIP_LZMA),
        write_tar(tmp_path / "plain.tar"),
        write_tar(tmp_path / "packed.tar.gz", "w:gz"),
        write_tar(tmp_path / "packed.tar.bz2", "w:bz2"),
        write_tar(tmp_path / "packed.tar.xz", "w:xz"),
    ]
    for path in stores:
        found = content(store(path))
        assert found == FILES, path.name
        assert list(found) == sorted(FILES), path.name


def test_a_compressed_tar_leaves_one_private_copy_until_it_is_dropped(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "packed.tar.gz", "w:gz")
    assert content(store(path)) == FILES
    copy = unpacked_path(path)
    assert copy.stat().st_mode & 0o777 == 0o600
    drop_unpacked({ReadRule("images", str(path), store="tar")})
    assert not copy.exists()
    assert content(store(path)) == FILES


def test_stamps_change_with_the_content_and_not_with_repacking(tmp_path: Path) -> None:
    first, second = write_zip(tmp_path / "1.zip"), write_zip(tmp_path / "2.zip", zipfile.ZIP_STORED)
    stamps = [{entry.name: entry.stamp for entry in store(path).entries()} for path in (first, second)]
    assert stamps[0] == stamps[1]
    folder = write_folder(tmp_path / "folder")
    before = {entry.name: (entry.size, entry.stamp) for entry in store(folder).entries()}
    os.utime(folder / "three.bin", ns=(1, 1))
    after = {entry.name: (entry.size, entry.stamp) for entry in store(folder).entries()}
    assert [name for name in before if before[name] != after[name]] == ["three.bin"]


def test_an_archive_that_is_replaced_is_opened_anew(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip")
    assert content(store(path)) == FILES
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.bin", b"other content")
    assert content(store(path)) == {"other.bin": b"other content"}


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "C:/evil", "a\\..\\evil"])
def test_members_that_climb_out_are_refused_by_name_and_written_nowhere(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(name, b"evil")
        archive.writestr("good", b"good")
    with tarfile.open(tmp_path / "x.tar", "w") as packed:
        add(packed, name, b"evil")
        add(packed, "good", b"good")
    before = sorted(tmp_path.parent.rglob("*evil*"))
    for path in (tmp_path / "x.zip", tmp_path / "x.tar"):
        found = content(store(path))
        assert found.pop("good") == b"good"
        assert list(found.values()) == ["unsafe path in the archive"]
    assert sorted(tmp_path.parent.rglob("*evil*")) == before


def test_links_and_devices_in_archives_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as packed:
        add(packed, "link", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(packed, "hard", type=tarfile.LNKTYPE, linkname="../../etc/passwd")
        add(packed, "device", type=tarfile.CHRTYPE)
        add(packed, "pipe", type=tarfile.FIFOTYPE)
        add(packed, "good", b"good")
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    reason = "a link or device in the archive, not a file"
    assert content(store(tmp_path / "x.tar")) == {
        **dict.fromkeys(("device", "hard", "link", "pipe"), reason),
        "good": b"good",
    }
    assert content(store(tmp_path / "x.zip")) == {"link": reason}


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_read(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder")
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "in").symlink_to(folder / "three.bin")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "up").symlink_to(tmp_path, target_is_directory=True)
    found = content(store(folder))
    assert found["out"] == "leads out of the source folder"
    assert found["up"] == "a link to a folder elsewhere, which is not followed"
    assert found["in"] == b"3"
    assert found["loop"] == "file unreadable"
    assert b"secret" not in found.values()
    with pytest.raises(ScanRefusedError, match="leads out"):
        store(folder).read("../secret")


def test_a_zip_bomb_of_overlapping_members_is_refused_as_a_whole(tmp_path: Path) -> None:
    """Many directory entries that point at one compressed body, after D. Fifield's construction."""
    body = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = body.compress(b"\0" * 2**24) + body.flush()
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(packed), 2**24, 1, 0) + b"x"
    entries = b""
    for number in range(2000):
        name = f"{number:04d}".encode()
        entries += (
            struct.pack(
                "<4sHHHHHHIIIHHHHHII",
                b"PK\1\2", 20, 20, 0, 8, 0, 0, 0, len(packed), 2**24, len(name), 0, 0, 0, 0, 0, 0,
            ) + name
        )  # fmt: skip
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 2000, 2000, len(entries), len(local) + len(packed), 0)
    (tmp_path / "bomb.zip").write_bytes(local + packed + entries + end)
    with pytest.raises(DataError, match="more data than its compression allows"):
        store(tmp_path / "bomb.zip")


def test_a_tar_bomb_is_stopped_while_it_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "packed.tar.gz", "w:gz")
    monkeypatch.setattr(tar_store, "MAX_RATIO", 1)
    monkeypatch.setattr(tar_store, "_SLACK_BYTES", 1000)
    with pytest.raises(DataError, match="more data than its compression allows"):
        store(path)
    assert not unpacked_path(path).exists()
    assert not list(unpacked_path(path).parent.glob(".*"))


def test_damaged_encrypted_doubled_and_oversized_members_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_zip(tmp_path / "x.zip", zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(FILES["a/b/two.bin"]) + 7] ^= 0xFF
    path.write_bytes(data)
    assert content(store(path))["a/b/two.bin"] == "archive member damaged"
    with pytest.warns(UserWarning), zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("same", b"1")
        archive.writestr("same", b"2")
    assert content(store(tmp_path / "twice.zip")) == {"same": "duplicate name in the archive"}
    packed = bytearray(write_zip(tmp_path / "locked.zip").read_bytes())
    place = packed.index(b"PK\1\2")
    packed[place + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(packed)
    assert content(store(tmp_path / "locked.zip"))["a/one.bin"] == "encrypted in the archive"
    monkeypatch.setattr("pipeline.sources.stores.zip.MAX_FILE_BYTES", 400)
    (tmp_path / "x.zip").unlink()
    assert content(store(write_zip(tmp_path / "x.zip")))["a/one.bin"] == "file too large"


@pytest.mark.parametrize(
    "data", [b"", b"no archive at all" * 50, b"PK\5\6" + b"\0" * 5, b"\x1f\x8b\x08" + b"x" * 60]
)
def test_a_file_that_is_no_store_is_an_error_with_a_remedy(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "thing.zip"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"(folder|archive)"):
        store(path)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_cut_short_is_refused_so_that_no_scan_goes_missing_unnoticed(
    tmp_path: Path, mode: str
) -> None:
    path = write_tar(tmp_path / "x.tar", mode)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match="truncated"):
        store(path)


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a DICOMDIR over phantom files, written by pydicom."""
    folder = tmp_path_factory.mktemp("medium")
    write_phantom_cohort(folder / "scans", PhantomSettings(num_patients=4, image_size=32, nifti_share=0.0))
    files = FileSet()
    for path in sorted((folder / "scans" / "dicom").rglob("*")):
        if path.is_file():
            instance = pydicom.dcmread(path)
            instance.StudyID = instance.get("StudyID") or "1"
            instance.SeriesNumber, instance.InstanceNumber = 1, instance.get("InstanceNumber") or 1
            files.add(instance)
    files.write(folder / "disc")
    return folder / "disc"


def test_a_dicomdir_lists_what_it_refers_to(medium: Path) -> None:
    (medium / "not-listed").write_bytes(b"x")
    found = content(store(medium / "DICOMDIR"))
    assert len(found) >= 4
    assert "not-listed" not in found
    passed = {entry.name: entry.skipped for entry in store(medium / "DICOMDIR").entries() if entry.skipped}
    assert passed == {"not-listed": "not listed in the DICOMDIR"}
    assert all(isinstance(data, bytes) and data[128:132] == b"DICM" for data in found.values())


def test_a_dicomdir_that_climbs_or_names_a_missing_file_is_refused_by_name(
    medium: Path, tmp_path: Path
) -> None:
    directory = pydicom.dcmread(medium / "DICOMDIR")
    records = [record for record in directory.DirectoryRecordSequence if "ReferencedFileID" in record]
    with pytest.warns(UserWarning):
        records[0].ReferencedFileID = ["..", "..", "PASSWD"]
    records[1].ReferencedFileID = ["GONE"]
    directory.save_as(tmp_path / "DICOMDIR")
    found = content(store(tmp_path / "DICOMDIR"))
    assert found["../../PASSWD"] == "unsafe path in the archive"
    assert found["GONE"] == "file missing"
