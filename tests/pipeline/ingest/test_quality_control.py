"""Quality control through ingest: what is flagged, joined, masked and refused, and what the page shows."""

from __future__ import annotations

import base64
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.artifacts.cohort import Cohort
from pipeline.errors import ManifestError
from pipeline.identity import Pseudonyms, load_key
from pipeline.ingest import run_ingest
from pipeline.ingest.reading.flags import (
    EXPLANATIONS,
    UNEXPECTED_MODALITY,
    UNEXPECTED_VIEW,
    is_clipped,
    unexpected,
)
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import load_manifest
from tests.pipeline.ingest.planted import copies, radiographs, with_text
from tests.pipeline.ingest.scans import TABLE_MANIFEST, manifest_of

PHANTOM = """
name: phantom
sources:
  - kind: phantom
    settings: {num_patients: 30, seed: 3}
expect: {modalities: [CR], views: [PA]}
"""
COUNT = 40


def write_scans(folder: Path) -> Path:
    """Write 40 scans of 40 patients in two classes; the first eight stand in the published test part."""
    rows = []
    for number, image in enumerate(radiographs(COUNT, 160)):
        name = f"{('bar', 'disc')[number % 2]}/pat{number:03d}.png"
        save(folder, name, image)
        rows.append((name, "test" if number < 8 else "train"))
    pd.DataFrame(rows, columns=["file", "part"]).to_csv(folder / "table.csv", index=False)
    return folder


def save(folder: Path, name: str, image: np.ndarray, part: str = "") -> None:
    place = folder / "scans" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(place)
    if part:
        with (folder / "table.csv").open("a") as table:
            table.write(f"{name},{part}\n")


def pixels_of(folder: Path, number: int) -> np.ndarray:
    name = f"{('bar', 'disc')[number % 2]}/pat{number:03d}.png"
    return np.asarray(Image.open(folder / "scans" / name))


def ingest(folder: Path, out: str = "c", text: str = TABLE_MANIFEST, **settings: object) -> Cohort:
    given: dict[str, object] = {"image_size": 32, "chunk_scans": 16, "workers": 1} | settings
    chosen = IngestSettings.model_validate(given)
    return Cohort(run_ingest(manifest_of(folder, text), folder / out, chosen).path)


def record(cohort: Cohort, name: str) -> pd.Series:
    return cohort.records().set_index("sample_id").loc[Pseudonyms(load_key()).scan(name)]


def flags(cohort: Cohort, name: str) -> set[str]:
    return set(str(record(cohort, name)["qc_flags"]).split(",")) - {""}


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Scans with seven copies: six of other patients and the same class, one of the other class."""
    write_scans(tmp_path)
    for number in range(10, 16):
        copy = list(copies(pixels_of(tmp_path, number)).values())[number - 10]
        save(tmp_path, f"{('bar', 'disc')[number % 2]}/pat9{number:02d}.png", copy, "train")
    save(tmp_path, "disc/pat950.png", copies(pixels_of(tmp_path, 20))["brighter"], "train")
    return tmp_path


def test_near_duplicates_are_flagged_joined_and_told(planted: Path) -> None:
    cohort = ingest(planted)
    for number in range(10, 16):
        pair = [
            f"{('bar', 'disc')[number % 2]}/pat{name}.png" for name in (f"{number:03d}", f"9{number:02d}")
        ]
        assert all("near_duplicate" in flags(cohort, name) for name in pair)
        assert record(cohort, pair[0])["split"] == record(cohort, pair[1])["split"]
    assert (
        flags(cohort, "disc/pat950.png")
        == flags(cohort, "bar/pat020.png")
        == {"near_duplicate", "label_conflict"}
    )
    assert cohort.records()["qc_flags"].str.contains("near_duplicate").sum() == 14
    assert "7 pairs of near-duplicate images are of different patients" in cohort.info.notes
    assert "1 groups of near-duplicates have different labels" in cohort.info.notes


def test_near_duplicates_can_be_left_alone_or_only_flagged(planted: Path) -> None:
    off = ingest(planted, "off", near_duplicates="off")
    assert not off.records()["qc_flags"].str.contains("near_duplicate").any()
    assert not any("near-duplicate" in note for note in off.info.notes)
    assert "Not searched" in (off.folder / "qc.html").read_text()
    flagged = ingest(planted, "flag", near_duplicates="flag")
    assert flagged.records()["qc_flags"].str.contains("near_duplicate").sum() == 14
    assert not any("kept on one side" in note for note in flagged.info.notes)
    joined = ingest(planted, "join", near_duplicates="join")
    assert any("kept on one side" in note for note in joined.info.notes)


def test_a_pool_copy_of_a_kept_test_image_is_dropped(tmp_path: Path) -> None:
    write_scans(tmp_path)
    save(tmp_path, "bar/pat900.png", copies(pixels_of(tmp_path, 2))["cropped"], "train")
    cohort = ingest(tmp_path, text=TABLE_MANIFEST + "split: {keep_test: official}\n")
    rejected = pd.read_parquet(cohort.folder / "rejected.parquet")
    assert rejected["reason"].tolist() == ["near-duplicate of a test scan"]
    assert rejected["sample_id"].tolist() == [Pseudonyms(load_key()).scan("bar/pat900.png")]


def test_negatives_are_flagged_by_class(tmp_path: Path) -> None:
    write_scans(tmp_path)
    save(tmp_path, "bar/pat900.png", 255 - radiographs(1, 160, seed=77)[0], "train")
    cohort = ingest(tmp_path)
    assert "inverted_contrast" in flags(cohort, "bar/pat900.png")
    assert cohort.records()["qc_flags"].str.contains("inverted").sum() == 1


def test_text_at_the_border_is_flagged_painted_over_or_refused(tmp_path: Path) -> None:
    write_scans(tmp_path)
    name, clean = "disc/pat900.png", radiographs(1, 160, seed=5)[0] // 3
    save(tmp_path, name, with_text(clean, "SMITH JOHN", (4, 4)), "train")
    text = {policy: ingest(tmp_path, policy, burned_in_text=policy) for policy in ("off", "flag", "mask")}
    stored = {policy: cohort.take([place(cohort, name)])[0, 0].astype(int) for policy, cohort in text.items()}
    assert not {"burned_in_text", "text_masked"} & flags(text["off"], name)
    assert "burned_in_text" in flags(text["flag"], name)
    assert "text_masked" in flags(text["mask"], name)
    assert (stored["flag"] == stored["off"]).all()
    assert (stored["mask"][8:] == stored["off"][8:]).all()
    assert stored["mask"][:4, 1:12].mean() < stored["off"][:4, 1:12].mean() - 20
    refused = ingest(tmp_path, "refused", burned_in_text="quarantine")
    reasons = pd.read_parquet(refused.folder / "rejected.parquet")["reason"]
    assert reasons.tolist() == ["burned-in text at the border"]
    assert "burned-in text at the border" in (refused.folder / "qc.html").read_text()


def place(cohort: Cohort, name: str) -> int:
    return cohort.records()["sample_id"].tolist().index(Pseudonyms(load_key()).scan(name))


def test_unexpected_modalities_and_views_are_flagged_or_refused(tmp_path: Path) -> None:
    flagged = ingest(tmp_path, text=PHANTOM)
    records = flagged.records()
    other = records["source_format"] == "dicom DX"
    assert other.any()
    assert (records["qc_flags"].str.contains(UNEXPECTED_MODALITY) == other).all()
    assert (records["qc_flags"].str.contains(UNEXPECTED_VIEW) == records["view"].isin({"AP"})).all()
    refused = ingest(tmp_path, "r", text=PHANTOM, unexpected="quarantine", max_reject_share=0.9)
    reasons = set(pd.read_parquet(refused.folder / "rejected.parquet")["reason"])
    assert reasons <= {"unexpected modality", "unexpected view"}
    assert "unexpected modality" in reasons
    assert set(refused.records()["source_format"]) <= {"dicom CR", "nifti"}


def test_what_is_not_named_is_not_judged() -> None:
    assert unexpected("dicom", "", ("CR",), ("PA",)) == ()
    assert unexpected("png", "", ("CR",), ("PA",)) == ()
    assert unexpected("dicom CT", "LL", (), ()) == ()
    assert unexpected("dicom CT", "LL", ("CR",), ("PA",)) == (UNEXPECTED_MODALITY, UNEXPECTED_VIEW)


@pytest.mark.parametrize("expect", ["{}", "{modalities: [cr]}", "{modality: [CR]}"])
def test_a_mistaken_expectation_is_named(tmp_path: Path, expect: str) -> None:
    (tmp_path / "m.yaml").write_text(PHANTOM.replace("{modalities: [CR], views: [PA]}", expect))
    with pytest.raises(ManifestError, match="expect"):
        load_manifest(tmp_path / "m.yaml")


def test_only_pixels_lost_at_the_ends_count_as_clipped() -> None:
    scan = radiographs(1, 200)[0].astype(np.uint16) * 16
    assert not is_clipped(scan, None)
    hard = np.clip(scan.astype(float) * 2.5 - 2000, 0, 4080).astype(np.uint16)
    assert is_clipped(hard, (0, 4080))
    assert is_clipped(hard.astype(np.float32), None)
    framed = np.zeros((400, 400), dtype=np.uint16)
    framed[100:300, 100:300] = scan
    assert not is_clipped(framed, None)


def test_the_page_is_self_contained_and_shows_pairs_and_examples(planted: Path) -> None:
    save(planted, "bar/pat960.png", pixels_of(planted, 30), "train")
    cohort = ingest(planted)
    page = (cohort.folder / "qc.html").read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:image/png|#)", page)
    assert "<script" not in page
    assert "@import" not in page
    for flag, told in EXPLANATIONS.items():
        assert flag in page
        assert told.split("'")[0] in page
    near = page[page.index("<h2>Near-duplicates") : page.index("<h2>Label conflicts")]
    assert near.count('class="pair marked"') == 7
    assert "7 of different patients" in near
    exact = page[page.index("<h2>Exact duplicates") : page.index("<h2>Near-duplicates")]
    assert exact.count('class="pair marked"') == 1
    conflicts = page[page.index("<h2>Label conflicts") :]
    for name in ("disc/pat950.png", "bar/pat020.png"):
        assert Pseudonyms(load_key()).scan(name) in conflicts
    assert "pat020" not in page


@pytest.mark.parametrize(("side", "shown"), [(32, 96), (224, 224), (300, 256)])
def test_pictures_are_large_enough_to_judge_and_fill_the_window_when_chosen(
    planted: Path, side: int, shown: int
) -> None:
    page = (ingest(planted, image_size=side).folder / "qc.html").read_text()
    first = re.search(
        r'<figure><label class="zoom"><input type="checkbox"[^>]*><img src="data:[^,]+,([^"]+)"', page
    )
    assert first is not None
    assert Image.open(io.BytesIO(base64.b64decode(first[1]))).size == (shown, shown)
    assert page.count("<img") == page.count('<label class="zoom">') > 10
    assert "input:checked + img { position: fixed" in page


def test_a_class_name_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    write_scans(tmp_path)
    shutil.move(tmp_path / "scans" / "bar", tmp_path / "scans" / "a&b")
    table = (tmp_path / "table.csv").read_text().replace("bar/", "a&b/")
    (tmp_path / "table.csv").write_text(table)
    licensed = TABLE_MANIFEST.replace("name: drawn", "name: drawn\nlicense: <script>alert(1)</script>")
    text = licensed.replace("label: {folder: 0}", "label: {folder: 0, values: {a&b: a, disc: d}}")
    page = (ingest(tmp_path, text=text).folder / "qc.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_unchanged_files_keep_their_flags_when_a_cohort_is_continued(planted: Path) -> None:
    first = ingest(planted)
    save(planted, "bar/pat970.png", radiographs(1, 160, seed=50)[0], "train")
    second = ingest(planted, "next", previous=first.folder)
    before = first.records().set_index("sample_id")["qc_flags"]
    after = second.records().set_index("sample_id")["qc_flags"]
    assert (after.loc[before.index] == before).all()
