"""The pseudonym key: made once, by one process, private, in no output; and what happens when it changes."""

from __future__ import annotations

import base64
import multiprocessing
import os
import stat
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from pipeline import storage
from pipeline.errors import OutputExistsError, UsageError
from pipeline.identity import KEY_BYTES, KEY_VARIABLE, Pseudonyms, key_path, load_key
from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import Manifest
from pipeline.residual import problems, scan_for_values

OLD, NEW = "a1b2" * 16, "c3d4" * 16


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a configuration folder without a key."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


def test_a_key_is_made_once_and_only_its_owner_can_read_it(home: Path) -> None:
    key = load_key()
    assert len(key) == KEY_BYTES
    assert load_key() == key
    assert key_path().is_relative_to(home)
    assert stat.S_IMODE(key_path().stat().st_mode) == 0o600
    assert stat.S_IMODE(key_path().parent.stat().st_mode) == 0o700
    assert [path.name for path in key_path().parent.iterdir()] == [key_path().name]


def _load(barrier: object, queue: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    queue.put(load_key())  # type: ignore[attr-defined]


def test_processes_that_make_the_key_at_once_end_with_one(home: Path) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        key_path().unlink(missing_ok=True)
        barrier, queue = context.Barrier(8), context.Queue()
        workers = [context.Process(target=_load, args=(barrier, queue)) for _ in range(8)]
        for worker in workers:
            worker.start()
        keys = {queue.get(timeout=60) for _ in workers}
        for worker in workers:
            worker.join()
        assert keys == {load_key()}
        assert len(list(key_path().parent.iterdir())) == 1


def test_a_key_that_another_process_made_in_between_is_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def late(source: str, target: Path) -> None:
        target.write_text(OLD, encoding="ascii")
        target.chmod(0o600)
        real(source, target)

    monkeypatch.setattr(os, "link", late)
    assert load_key() == bytes.fromhex(OLD)


@pytest.mark.parametrize("text", ["", "xyz", "ab" * 31])
def test_a_damaged_key_file_is_refused_without_showing_it(home: Path, text: str) -> None:
    key_path().parent.mkdir(parents=True)
    key_path().write_text(text)
    key_path().chmod(0o600)
    with pytest.raises(UsageError, match="64 hexadecimal digits") as raised:
        load_key()
    assert not text or text not in str(raised.value).replace(str(key_path()), "")


def test_a_key_that_others_can_read_is_refused(home: Path) -> None:
    load_key()
    key_path().chmod(0o640)
    with pytest.raises(UsageError, match="other users can read"):
        load_key()


def test_on_windows_the_mode_of_a_key_says_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = load_key()
    key_path().chmod(0o666)
    monkeypatch.setattr(storage, "ON_WINDOWS", True)
    assert load_key() == key


def test_the_environment_goes_before_the_file_and_makes_none(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, OLD)
    assert load_key() == bytes.fromhex(OLD)
    assert not home.exists()
    monkeypatch.setenv(KEY_VARIABLE, "short")
    with pytest.raises(UsageError, match=KEY_VARIABLE):
        load_key()


def test_kinds_do_not_share_pseudonyms_and_keys_do_not_either() -> None:
    old, new = Pseudonyms(bytes.fromhex(OLD)), Pseudonyms(bytes.fromhex(NEW))
    texts = [old.patient("x"), old.scan("x"), new.patient("x"), new.scan("x")]
    assert len({text[2:] for text in texts}) == 4
    assert old.patient("x") == Pseudonyms(bytes.fromhex(OLD)).patient("x")


@pytest.fixture
def scans(tmp_path: Path) -> Manifest:
    """Return a manifest of 60 small images of 30 patients in two classes."""
    folder = tmp_path / "scans"
    for number in range(60):
        patient = number // 2
        path = folder / ("disc", "bar")[patient % 2] / f"pat{patient:03d}-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.effect_noise((24, 24), 40)
        image.putpixel((0, 0), number)
        image.save(path)
    source = {
        "kind": "images",
        "path": str(folder),
        "label": {"folder": 0},
        "patient": {"pattern": "(pat[0-9]+)"},
    }
    return Manifest.model_validate({"name": "noise", "sources": [source]}).located(tmp_path)


def settings(**changes: object) -> IngestSettings:
    return IngestSettings(image_size=16, workers=1, **changes)  # type: ignore[arg-type]


def forms_of(key: bytes) -> list[str]:
    """Return a key as text: hexadecimal, and base64 of the bytes and of the digits at each alignment."""
    texts = [key.hex(), base64.b64encode(key).decode()]
    for shift in range(3):
        texts.append(base64.b64encode(b"." * shift + key.hex().encode()).decode()[4:-4])
    return texts


def test_the_key_is_in_no_byte_of_a_cohort(
    scans: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = bytes(range(7, 7 + 32 * 7, 7))
    monkeypatch.setenv(KEY_VARIABLE, key.hex())
    run_ingest(scans, tmp_path / "cohort", settings(private_map=tmp_path / "map.parquet"))
    written = [path for path in (*tmp_path.glob("cohort/**/*"), tmp_path / "map.parquet") if path.is_file()]
    assert len(written) > 6
    assert [path.name for path in written if key in path.read_bytes()] == []
    assert problems(scan_for_values(tmp_path / "cohort", forms_of(key))) == []
    assert problems(scan_for_values(tmp_path, forms_of(key), files=["map.parquet"])) == []
    # The same search finds it where it is.
    (tmp_path / "cohort" / "kept.txt").write_text(f"key={key.hex()}")
    assert problems(scan_for_values(tmp_path / "cohort", forms_of(key)))


def test_another_key_is_refused_on_an_old_output_and_changes_pseudonyms_alone(
    scans: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "cohort"
    maps = {}
    monkeypatch.setenv(KEY_VARIABLE, OLD)
    run_ingest(scans, out, settings(private_map=tmp_path / "old.parquet"))
    before = pd.read_parquet(out / "records.parquet")
    maps["old"] = pd.read_parquet(tmp_path / "old.parquet")
    pixels = {path.name: path.read_bytes() for path in out.glob("*.npy")}

    monkeypatch.setenv(KEY_VARIABLE, NEW)
    with pytest.raises(OutputExistsError) as raised:
        run_ingest(scans, out, settings())
    assert raised.value.exit_code == 2
    pd.testing.assert_frame_equal(pd.read_parquet(out / "records.parquet"), before)

    run_ingest(scans, out, settings(private_map=tmp_path / "new.parquet"), force=True)
    after = pd.read_parquet(out / "records.parquet")
    maps["new"] = pd.read_parquet(tmp_path / "new.parquet")
    assert set(before["sample_id"]).isdisjoint(after["sample_id"])
    assert set(before["patient_id"]).isdisjoint(after["patient_id"])
    assert {path.name: path.read_bytes() for path in out.glob("*.npy")} == pixels
    # Old and new are linked by the file names of the two private maps, and agree in everything else.
    linked = maps["old"].merge(maps["new"], on="name", suffixes=("_old", "_new"), validate="one_to_one")
    assert len(linked) == 60
    renamed = before.merge(
        linked[["sample_id_old", "sample_id_new"]], left_on="sample_id", right_on="sample_id_old"
    )
    both = renamed.merge(after, left_on="sample_id_new", right_on="sample_id", suffixes=("", "_after"))
    assert len(both) == len(before)
    for column in ("split", "label", "audit", "source_sha256"):
        assert (both[column] == both[f"{column}_after"]).all(), column
