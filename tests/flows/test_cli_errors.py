"""Bad input at the command line: one message with field and remedy, the right exit code, nothing lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image

from flows.cli.options import reported
from pipeline.config import Settings
from pipeline.errors import StorageError
from pipeline.phantom import PhantomSettings, write_phantom_cohort
from pipeline.records import CohortRef
from pipeline.stage import open_stage
from tests.cohorts import write_cohort
from tests.flows.conftest import PHANTOM, Call, Outcome, sets, spawn
from tests.pipeline.test_replacing import content, mounted

TINY = (
    "train.num_steps=3",
    "train.channels=[8]",
    "train.attention=[false]",
    "train.num_norm_groups=8",
    "train.num_head_channels=8",
    "sample.per_class=4",
    "sample.num_steps=2",
    "sample.batch_size=8",
    "sample.shard_size=8",
)


def check_refusal(done: Outcome, code: int, *words: str) -> None:
    """Hold what every refusal has in common: its code, one message, no traceback, no result line."""
    assert done.code == code, done.err
    message = done.err.strip().splitlines()[-1]
    assert message.startswith("Error: "), done.err
    for word in words:
        assert word in message
    assert "Traceback" not in done.err
    assert done.out == ""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small cohort, its checkpoint and its candidates, made by the commands."""
    folder = tmp_path_factory.mktemp("made")
    write_cohort(folder / "cohort", num_scans=60, image_size=16)
    write_cohort(folder / "other", num_scans=60, image_size=16, seed=1)
    from flows.cli.app import app

    for arguments in (
        ["train", folder / "cohort", "--out", folder / "checkpoint"],
        ["sample", folder / "checkpoint", "--out", folder / "candidates"],
    ):
        with pytest.raises(SystemExit) as ended:
            app([str(part) for part in [*arguments, "--recipe", "smoke", *sets(TINY)]])
        assert not ended.value.code
    return folder


def image_folder(folder: Path, counts: dict[str, int]) -> Path:
    """Write PNGs by class and a manifest for them; return the manifest."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / "images" / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 255, (20, 20), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{number}.png")
    manifest = folder / "manifest.yaml"
    manifest.write_text(
        "name: drawn\nsources:\n  - kind: images\n    path: images\n    label: {folder: 0}\n",
        encoding="utf-8",
    )
    return manifest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sources: [{kind: phantom}]\n", ("name", "missing")),
        ("name: a\nsources: [{kind: phantom}]\nclases: [b]\n", ("clases", "Did you mean 'classes'")),
        ("name: a\nsources: [{kind: phantoms}]\n", ("sources.0", "kind")),
        ("name: a\nsources: [\n", ("YAML",)),
        ("name: a\nsources: [{kind: phantom, settings: {num_patients: 0}}]\n", ("num_patients",)),
    ],
    ids=["missing", "unknown", "kind", "broken", "range"],
)
@pytest.mark.parametrize("command", ["run", "ingest", "validate"])
def test_a_wrong_manifest_exits_2_and_names_the_key(
    tmp_path: Path, call: Call, command: str, text: str, words: tuple[str, ...]
) -> None:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(text)
    out = [] if command == "validate" else ["--out", tmp_path / "out"]
    check_refusal(call(command, manifest, *out), 2, *words)
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_is_not_there_exits_2(tmp_path: Path, call: Call) -> None:
    check_refusal(call("validate", tmp_path / "none.yaml"), 2, "the manifest does not exist")


@pytest.mark.parametrize("override", ["train.num_step=5", "train.num_steps=-5", "train.num_steps"])
def test_a_wrong_override_exits_2_before_anything_is_written(
    tmp_path: Path, call: Call, override: str
) -> None:
    check_refusal(call("run", PHANTOM, "--out", tmp_path / "out", "--set", override), 2, "num_step")
    assert not (tmp_path / "out").exists()


def test_an_unknown_recipe_exits_2(tmp_path: Path, call: Call) -> None:
    check_refusal(call("run", PHANTOM, "--out", tmp_path / "out", "--recipe", "fast"), 2, "--recipe", "smoke")


@pytest.mark.parametrize("arguments", [["nosuch"], ["train"], ["run", "a.yaml", "--nosuch"]])
def test_a_wrong_command_line_exits_2(call: Call, arguments: list[str]) -> None:
    done = call(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err


def test_an_unreachable_folder_exits_3(tmp_path: Path, call: Call) -> None:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text("name: a\nsources: [{kind: dicom, path: nowhere, label: {folder: 0}}]\n")
    check_refusal(call("ingest", manifest, "--out", tmp_path / "out"), 3, "sources.0")
    check_refusal(call("validate", manifest), 3, "sources.0")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder: run as another user to see this")
def test_a_folder_without_permission_exits_3(tmp_path: Path, call: Call) -> None:
    manifest = image_folder(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "images" / "a").chmod(0)
    try:
        check_refusal(call("ingest", manifest, "--out", tmp_path / "out"), 3, "cannot be read")
    finally:
        (tmp_path / "images" / "a").chmod(0o700)


def test_a_class_with_one_image_exits_3_and_is_named(tmp_path: Path, call: Call) -> None:
    manifest = image_folder(tmp_path, {"common": 30, "rare": 1})
    check_refusal(call("ingest", manifest, "--out", tmp_path / "out", "--recipe", "smoke"), 3, "rare")


def test_a_corrupt_dicom_among_good_ones_is_listed_by_hashed_id_and_the_rest_is_used(
    tmp_path: Path, call: Call
) -> None:
    settings = PhantomSettings(num_patients=40, image_size=48, nifti_share=0.0, images_per_patient=(1, 1))
    index = write_phantom_cohort(tmp_path / "data", settings)
    victim = next(path for path in sorted((tmp_path / "data" / "dicom").rglob("*")) if path.is_file())
    victim.write_bytes(victim.read_bytes()[:700])
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(
        "name: corrupt\nsources:\n  - kind: dicom\n    path: data\n    include: ['dicom/**/*']\n"
        "    table: {path: data/labels.csv}\n    label: {column: label}\n    patient: {tag: PatientID}\n"
    )
    shares = sets(("ingest.image_size=16", "ingest.val_share=0.2", "ingest.test_share=0.2"))
    done = call("ingest", manifest, "--out", tmp_path / "out", "--recipe", "smoke", *shares)
    assert done.code == 0, done.err
    assert done.last_line["counts"]["rejected"] == 1
    assert done.last_line["counts"]["scans"] == index.num_images - 1
    rejected = pd.read_parquet(tmp_path / "out" / "rejected.parquet")
    assert len(rejected) == 1
    assert victim.name not in rejected.to_csv() + done.err + done.out


def test_a_directory_that_is_no_cohort_exits_3(tmp_path: Path, call: Call) -> None:
    check_refusal(call("train", tmp_path, "--out", tmp_path / "out"), 3, "cohort")


def test_a_checkpoint_of_another_cohort_exits_3(made: Path, tmp_path: Path, call: Call) -> None:
    done = call(
        "audit", made / "candidates", "--cohort", made / "other", "--out", tmp_path / "audit",
        "--checkpoint", made / "checkpoint", "--recipe", "smoke",
    )  # fmt: skip
    check_refusal(done, 3, "cohort")
    assert not (tmp_path / "audit" / "reference.json").exists()


def test_an_unknown_class_sampler_or_format_exits_2(made: Path, tmp_path: Path, call: Call) -> None:
    base = ["sample", made / "checkpoint", "--out", tmp_path / "out", "--recipe", "smoke"]
    check_refusal(call(*base, "--class", "none"), 2, "--class")
    check_refusal(call(*base, "--sampler", "magic"), 2, "sample.sampler")
    release = ["release", made / "candidates", "--audit", made, "--out", tmp_path / "release"]
    check_refusal(call(*release, "--format", "tiff"), 2, "format")
    check_refusal(call(*release, "--policy", "lax"), 2, "release.policy")


def test_the_options_of_sample_arrive(made: Path, tmp_path: Path, call: Call) -> None:
    done = call(
        "sample", made / "checkpoint", "--out", tmp_path / "out", "--recipe", "smoke", *sets(TINY),
        "--per-class", 2, "--class", "line", "--sampler", "heun", "--steps", 3, "--guidance", 1.5,
    )  # fmt: skip
    assert done.code == 0, done.err
    table = pd.read_parquet(tmp_path / "out" / "candidates.parquet")
    assert set(table["class"]) == {"line"}
    assert (set(table["sampler"]), set(table["num_steps"]), set(table["guidance_scale"])) == (
        {"heun"},
        {3},
        {1.5},
    )
    assert done.last_line["counts"]["per_class"] == 2


def test_the_last_line_of_a_stage_is_its_reference(made: Path, call: Call) -> None:
    done = call("train", made / "cohort", "--out", made / "checkpoint", "--recipe", "smoke", *sets(TINY))
    assert done.code == 0
    recorded = json.loads((made / "checkpoint" / "reference.json").read_text())
    assert done.last_line == {
        "path": str(made / "checkpoint"),
        **{key: recorded[key] for key in ("stage", "digest", "inputs_digest", "counts")},
    }


def test_an_output_of_other_settings_exits_2_and_stays(made: Path, call: Call) -> None:
    before = (made / "checkpoint" / "model.safetensors").read_bytes()
    arguments = ["train", made / "cohort", "--out", made / "checkpoint", "--recipe", "smoke", *sets(TINY)]
    check_refusal(call(*arguments, "--set", "train.num_steps=4"), 2, "--force")
    assert (made / "checkpoint" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("stage", ["train", "sample"])
def test_force_on_a_mount_point_exits_2_and_what_it_holds_stays(
    made: Path, tmp_path: Path, call: Call, stage: str
) -> None:
    source, held = {"train": ("cohort", "checkpoint"), "sample": ("checkpoint", "candidates")}[stage]
    with mounted(tmp_path / "volume", "tmpfs") as out:
        shutil.copytree(made / held, out, dirs_exist_ok=True)
        before = content(out)
        arguments = [stage, made / source, "--out", out, "--recipe", "smoke", *sets(TINY)]
        done = call(*arguments, "--set", f"{stage}.num_steps=4", "--force")
        check_refusal(done, 2, "--out", str(out), "cannot be moved", f"{out}/{held}")
        assert "Finished work" not in done.err
        planned = call(*arguments, "--set", f"{stage}.num_steps=4", "--force", "--dry-run").last_line
        assert [step["state"] for step in planned["steps"]] == ["refuse"]
        assert content(out) == before


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize(("error", "code"), [(OSError, 1), (KeyboardInterrupt, 130), (StorageError, 1)])
def test_that_work_is_kept_is_said_only_where_it_is(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    code: int,
    gone: bool,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with (
        pytest.raises(typer.Exit) as ended,
        reported(),
        open_stage(CohortRef, tmp_path / "out", inputs={}, settings=Settings()) as stage,
    ):
        if gone:
            shutil.rmtree(stage.path)
        raise error("inside")
    assert ended.value.exit_code == code
    assert ("Finished work is kept" in capsys.readouterr().err) is not gone


def test_a_tampered_candidate_file_exits_3_before_an_audit(made: Path, tmp_path: Path, call: Call) -> None:
    shutil.copytree(made / "candidates", tmp_path / "candidates")
    pixels = tmp_path / "candidates" / "pixels-00000.npy"
    content = bytearray(pixels.read_bytes())
    content[-1] ^= 1
    pixels.write_bytes(content)
    done = call(
        "audit", tmp_path / "candidates", "--cohort", made / "cohort", "--out", tmp_path / "audit",
        "--recipe", "smoke",
    )  # fmt: skip
    check_refusal(done, 3, "pixels-00000.npy")


def test_a_tampered_release_exits_3(finished_run: Path, tmp_path: Path, call: Call) -> None:
    shutil.copytree(finished_run / "release", tmp_path / "release")
    assert call("verify", tmp_path / "release").code == 0
    image = next((tmp_path / "release" / "images").rglob("*.png"))
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 1
    image.write_bytes(content)
    check_refusal(call("verify", tmp_path / "release"), 3, image.name)


def test_a_full_disk_exits_1_with_the_remedy_and_keeps_what_was_there(made: Path, tmp_path: Path) -> None:
    arguments = ("sample", made / "checkpoint", "--out", tmp_path / "out", "--recipe", "smoke", *sets(TINY))
    process = spawn(*arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500)))
    out, err = process.communicate(timeout=240)
    check_refusal(Outcome(process.returncode, out, err), 1, "no space left", "Free space")
    assert not list(tmp_path.rglob("*.npy"))
    process = spawn(*arguments)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    made_before = json.loads((made / "candidates" / "reference.json").read_text())
    assert json.loads(out.strip().splitlines()[-1])["digest"] == made_before["digest"]


def test_an_unexpected_error_names_type_and_place_but_not_its_message(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A cohort whose table is a directory: an error that nobody foresaw, with a path in its message.
    reference = write_cohort(tmp_path / "patient-Zoe" / "cohort", num_scans=60, image_size=16)
    assert isinstance(reference, CohortRef)
    (reference.path / "cohort.json").unlink()
    (reference.path / "cohort.json").mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    done = call("train", reference.path, "--out", tmp_path / "out", "--recipe", "smoke", *sets(TINY))
    check_refusal(done, 1, "IsADirectoryError")
    assert "patient-Zoe" not in done.err.split("The traceback is in")[0]
    (log,) = (tmp_path / "state").rglob("failure-*.log")
    assert log.stat().st_mode & 0o777 == 0o600
    assert "patient-Zoe" in log.read_text()
