"""`phosphor verify OUTPUT --against SOURCE`: exit codes, messages without values, every kind of output."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline.phantom import planted_values
from pipeline.sources.phantom import phantom_folder
from tests.flows.conftest import ROOT, Call

MANIFEST = {
    "name": "little",
    "license": "CC0-1.0",
    "classes": ["normal", "consolidation", "effusion", "mass", "cardiomegaly"],
    "sources": [
        {"kind": "phantom", "settings": {"num_patients": 40, "image_size": 32, "nifti_share": 0.2, "seed": 3}}
    ],
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("manifest") / "little.yaml"
    path.write_text(yaml.safe_dump(MANIFEST), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def cohort(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pipeline.ingest import run_ingest
    from pipeline.manifest import load_manifest
    from pipeline.recipe import load_recipe

    out = tmp_path_factory.mktemp("run") / "cohort"
    overrides = ["ingest.image_size=16", "ingest.workers=1", "ingest.phantom_patients=40"]
    run_ingest(load_manifest(manifest), out, load_recipe("smoke", overrides).ingest)
    return out


@pytest.fixture
def planted(manifest: Path) -> list[str]:
    from pipeline.manifest import load_manifest

    source = load_manifest(manifest).sources[0]
    return planted_values(phantom_folder(source.settings))  # type: ignore[union-attr]


def test_a_cohort_holds_nothing_of_its_manifest_and_says_what_was_searched(
    call: Call, cohort: Path, manifest: Path
) -> None:
    done = call("verify", cohort, "--against", manifest)
    assert done.code == 0, done.err
    body = done.last_line
    assert body["stage"] == "verify"
    assert body["release"] is None
    against = body["against"]
    assert against["clean"]
    assert against["values"] > 2000
    assert set(against["searched"]) >= {"UID", "date", "person name", "identifier", "text", "file name"}
    assert against["control"]["written"] == against["control"]["found"] > 150
    assert against["left_out"]["registered UID"] > 0
    assert "collect values" in done.err
    assert "search output" in done.err


def test_leaks_exit_with_3_name_attribute_and_file_and_never_a_value(
    call: Call, cohort: Path, manifest: Path, planted: list[str], tmp_path: Path
) -> None:
    tampered = tmp_path / "cohort"
    shutil.copytree(cohort, tampered)
    pd.DataFrame({"kept": planted}).to_parquet(tampered / "kept.parquet")
    uid = next(value for value in planted if value.startswith("2.25."))
    (tampered / f"{uid}.txt").write_bytes("\n".join(planted).encode("utf-16"))
    done = call("verify", tampered, "--against", manifest)
    assert done.code == 3
    assert not done.last_line["against"]["clean"]
    attributes = done.last_line["against"]["found"]["by_attribute"]
    assert {"PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "file name"} <= set(
        attributes
    )
    assert "found: PatientName" in done.err
    assert "kept.parquet" in done.err
    said = done.out + done.err
    assert [value for value in planted if len(value) > 3 and value.casefold() in said.casefold()] == []


def test_a_folder_of_scans_is_a_source_too(call: Call, cohort: Path, manifest: Path) -> None:
    from pipeline.manifest import load_manifest

    source = load_manifest(manifest).sources[0]
    folder = phantom_folder(source.settings)  # type: ignore[union-attr]
    done = call("verify", cohort, "--against", folder / "dicom")
    assert done.code == 0, done.err
    assert call("verify", folder / "nifti", "--against", folder / "dicom").code in {0, 3}
    assert call("verify", folder / "dicom", "--against", folder / "dicom").code == 3


def test_an_output_that_cannot_be_searched_exits_with_3(
    call: Call, cohort: Path, manifest: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "cohort"
    shutil.copytree(cohort, damaged)
    (damaged / "records.parquet").write_bytes(b"PAR1 damaged PAR1")
    done = call("verify", damaged, "--against", manifest)
    assert done.code == 3
    assert "not searched: records.parquet (damaged" in done.err


@pytest.mark.parametrize("missing", ["source", "output", "values"])
def test_wrong_arguments_are_one_message(
    call: Call, cohort: Path, manifest: Path, tmp_path: Path, missing: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a").write_text("")
    arguments = {
        "source": (cohort, tmp_path / "nowhere.yaml", 2, "--against"),
        "output": (tmp_path / "nowhere", manifest, 3, "not a folder with files"),
        "values": (cohort, tmp_path / "empty", 3, "no identifying value"),
    }
    output, source, code, message = arguments[missing]
    done = call("verify", output, "--against", source)
    assert done.code == code
    assert message in done.err
    assert "Traceback" not in done.err


def test_without_against_only_a_release_is_verified(call: Call, cohort: Path) -> None:
    done = call("verify", cohort)
    assert done.code == 3
    assert "SHA256SUMS is missing" in done.err


def test_a_whole_run_and_its_release_hold_nothing_of_the_phantom(
    call: Call, finished_run: Path, tmp_path: Path
) -> None:
    source = yaml.safe_load((ROOT / "data_manifests" / "phantom.yaml").read_text(encoding="utf-8"))
    # The run took the first 60 patients of the manifest's cohort.
    source["sources"][0]["settings"]["num_patients"] = 60
    path = tmp_path / "phantom.yaml"
    path.write_text(yaml.safe_dump(source), encoding="utf-8")
    for output in (finished_run, finished_run / "release"):
        done = call("verify", output, "--against", path)
        assert done.code == 0, done.err
        assert done.last_line["against"]["clean"]
    assert done.last_line["release"]["counts"]["images"] > 0


def test_a_tampered_release_is_refused_before_it_is_searched(
    call: Call, finished_run: Path, manifest: Path, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    shutil.copytree(finished_run / "release", release)
    (release / "metadata.csv").write_text("tampered")
    done = call("verify", release, "--against", manifest)
    assert done.code == 3
    assert "metadata.csv" in done.err


def test_a_killed_verification_leaves_no_value_behind(cohort: Path, manifest: Path, tmp_path: Path) -> None:
    import os
    import signal
    import time

    for delay in (1.0, 2.0):
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli.app", "verify", str(cohort), "--against", str(manifest)],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) in {0, 130, -signal.SIGINT}
        assert list(tmp_path.iterdir()) == []
