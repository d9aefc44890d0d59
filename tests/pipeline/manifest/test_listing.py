"""What a manifest lists: selections, published parts, matching, prefixes, and cells that must not get out."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.artifacts.cohort import Cohort
from pipeline.errors import DataError, ManifestError
from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import load_manifest
from pipeline.sources.base import DicomOptions, ImageOptions, NiftiOptions, ScanTask
from pipeline.sources.folders import Listing
from pipeline.sources.listing import list_scans
from tests.pipeline.manifest.trees import picture

HEAD = """
name: small
sources:
  - kind: images
    path: scans
    include: ["**/*.png"]
"""
FORMULA = "=cmd|' /C planted'!A0"


def files(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(path)


def listed(folder: Path, text: str, head: str = HEAD) -> Listing:
    (folder / "m.yaml").write_text(head + text)
    return list_scans(load_manifest(folder / "m.yaml"))


def by_name(listing: Listing) -> dict[str, ScanTask]:
    return {task.name: task for task in listing.tasks}


def test_what_is_not_selected_is_left_out_and_counted(tmp_path: Path) -> None:
    files(tmp_path, "a.png", "b.png", "c.png", "d.png")
    rows = "a.png,PA,x\nb.png,L,x\nc.png,AP,x\nc.png,L,x\n"
    (tmp_path / "t.csv").write_text("file,view,label\n" + rows)
    text = "    table: {path: t.csv, repeated: agree}\n    label: {column: label}\n"
    listing = listed(tmp_path, text + "    select: {view: [PA, AP]}\n")
    assert {name: task.refusal for name, task in by_name(listing).items()} == {
        "a.png": "",
        "c.png": "rows of the table disagree",
        "d.png": "not in the table",
    }
    assert listing.notes == ["1 scans are excluded by the manifest's `select` (view)"]


def test_a_row_that_fits_several_files_is_refused_for_all_of_them(tmp_path: Path) -> None:
    files(tmp_path, "one/a.png", "two/a.png", "two/b.png")
    (tmp_path / "t.csv").write_text("file,label\na,x\nb,x\nc,x\n")
    listing = listed(tmp_path, "    table: {path: t.csv, match: stem}\n    label: {column: label}\n")
    assert {name: task.refusal for name, task in by_name(listing).items()} == {
        "one/a.png": "a row of the table matches several files",
        "two/a.png": "a row of the table matches several files",
        "two/b.png": "",
        "c": "file missing",
    }


PUBLISHED = """
    label: {value: x}
    published_splits:
      listed: {lists: {train: train.txt, test: test.txt}, match: stem}
      level: {folder: 0, values: {valid: val}}
      named: {pattern: "_(tr|te)[.]"}
      fixed: {value: train}
"""


def test_parts_come_from_lists_folders_patterns_and_constants(tmp_path: Path) -> None:
    files(tmp_path, "train/a_tr.png", "valid/b_te.png", "valid/c_.png")
    (tmp_path / "train.txt").write_text("\ufeffa_tr\r\n\r\nc_\r\n", encoding="utf-8")
    (tmp_path / "test.txt").write_text("b_te\nc_\n")
    listing = listed(tmp_path, PUBLISHED)
    assert listing.published == ("listed", "level", "named", "fixed")
    tasks = by_name(listing)
    assert tasks["train/a_tr.png"].published == ("train", "train", "tr", "train")
    assert tasks["valid/b_te.png"].published == ("test", "val", "te", "train")
    assert tasks["valid/c_.png"].published == ("", "val", "", "train")
    assert tasks["valid/c_.png"].refusal == "in several parts of a published split"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "the list does not exist"),
        (b"a\0b\n", "not a list"),
        (b"x" * 9000, "not a list"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_a_list_that_is_none_is_a_data_error(tmp_path: Path, content: bytes | None, problem: str) -> None:
    files(tmp_path, "train/a_tr.png")
    (tmp_path / "train.txt").write_text("a_tr\n")
    if content is not None:
        (tmp_path / "test.txt").write_bytes(content)
    with pytest.raises(DataError, match=problem):
        listed(tmp_path, PUBLISHED)


def test_another_list_or_table_is_another_input(tmp_path: Path) -> None:
    files(tmp_path, "train/a_tr.png")
    (tmp_path / "train.txt").write_text("a_tr\n")
    (tmp_path / "test.txt").write_text("")
    first = listed(tmp_path, PUBLISHED).fingerprint
    (tmp_path / "test.txt").write_text("b_te\n")
    assert listed(tmp_path, PUBLISHED).fingerprint != first


def test_findings_of_several_sources_must_be_the_same(tmp_path: Path) -> None:
    files(tmp_path, "a.png")
    one = "    label: {columns: {E: edema}}\n    table: {path: t.csv}\n"
    other = HEAD.partition("sources:\n")[2] + one.replace("edema", "fracture")
    with pytest.raises(ManifestError, match="same findings"):
        listed(tmp_path, one + other)


FINDINGS = """    label: {columns: {Z: zoster, E: edema, F: fracture}, none: healthy}
    table: {path: t.csv, match: name}
"""


@pytest.mark.parametrize(
    ("priority", "label"), [("[fracture, zoster, edema]", "fracture"), ("[edema, zoster, fracture]", "edema")]
)
@pytest.mark.parametrize("classes", ["", "classes: [zoster, fracture, healthy, edema]\n"])
def test_priority_says_which_finding_counts_first_and_nothing_else_does(
    tmp_path: Path, priority: str, label: str, classes: str
) -> None:
    files(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "t.csv").write_text("file,Z,E,F\na.png,0,1,1\nb.png,1,0,0\nc.png,0,0,0\n")
    found = listed(tmp_path, FINDINGS, f"{classes}priority: {priority}{HEAD}")
    assert found.findings == ("edema", "fracture", "zoster")
    assert [(task.label, task.findings) for task in found.tasks] == [
        (label, b"\1\1\0"), ("zoster", b"\0\0\1"), ("healthy", b"\0\0\0")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (
            "",
            r"required, because .*priority: \[edema, fracture, zoster\], or set several: refuse",
        ),
        ("classes: [zoster, healthy, edema]\n", r"priority: \[zoster, edema\]"),
        ("priority: [edema, fracture]\n", "priority: zoster must be listed too"),
        ("priority: [edema, fracture, zoster, edema]\n", "priority: a name is listed twice"),
        ("priority: [edema, fracture, zoster, healthy]\n", "'healthy' is not both a finding and a class"),
        ("classes: [zoster, healthy]\npriority: [zoster, edema]\n", "'edema' is not both"),
    ],
)
def test_without_a_whole_priority_a_manifest_of_several_findings_is_refused(
    tmp_path: Path, keys: str, problem: str
) -> None:
    with pytest.raises(ManifestError, match=problem):
        listed(tmp_path, FINDINGS, keys + HEAD)


def test_priority_is_not_asked_for_where_no_scan_can_need_it(tmp_path: Path) -> None:
    files(tmp_path, "a.png", "b.png")
    (tmp_path / "t.csv").write_text("file,Z,E,F\na.png,0,1,1\nb.png,1,1,0\n")
    refusing = FINDINGS.replace("none:", "several: refuse, none:")
    assert [task.refusal for task in listed(tmp_path, refusing).tasks] == ["several findings"] * 2
    one_class = listed(tmp_path, FINDINGS, "classes: [edema, healthy]" + HEAD)
    assert [task.label for task in one_class.tasks] == ["edema", "edema"]
    for text in (refusing, "    label: {folder: 0}\n"):
        with pytest.raises(ManifestError, match="priority: not allowed, because no source"):
            listed(tmp_path, text, "priority: [edema]" + HEAD)


def test_an_archives_own_numbers_are_not_those_of_the_cohort(tmp_path: Path) -> None:
    """MedMNIST numbers classes as its authors listed them; the cohort numbers the sorted names."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = (80 * labels[:, None, None] + rng.integers(0, 20, (60, 8, 8))).astype(np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=labels[:, None])
    names = ("nevus", "melanoma", "angioma")
    (tmp_path / "m.yaml").write_text(
        "name: moles\nsources:\n  - kind: medmnist\n    path: set.npz\n"
        "    labels: {0: nevus, 1: melanoma, 2: angioma}\n"
    )
    settings = IngestSettings(image_size=8, workers=1)
    cohort = Cohort(run_ingest(load_manifest(tmp_path / "m.yaml"), tmp_path / "c", settings).path)
    assert cohort.info.classes == ("angioma", "melanoma", "nevus")
    archive = (cohort.take(range(60)).mean(axis=(1, 2, 3)) // 80).astype(int)
    assert [cohort.info.classes[code] for code in cohort.labels] == [names[code] for code in archive]


def test_columns_of_an_archive_become_findings_by_name(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]])
    np.savez(tmp_path / "set.npz", images=np.zeros((3, 8, 8), np.uint8), labels=labels)
    text = (
        "name: several\npriority: [zoster, edema, fracture]\nsources:\n  - kind: medmnist\n"
        "    path: set.npz\n    multi_label: true\n    none: healthy\n"
        "    labels: {0: zoster, 1: fracture, 2: edema}\n"
    )
    (tmp_path / "m.yaml").write_text(text)
    found = list_scans(load_manifest(tmp_path / "m.yaml"))
    assert found.findings == ("edema", "fracture", "zoster")
    assert [(task.label, task.findings) for task in found.tasks] == [
        ("edema", b"\1\1\0"), ("zoster", b"\0\0\1"), ("healthy", b"\0\0\0")
    ]  # fmt: skip
    (tmp_path / "m.yaml").write_text(text.replace("1: fracture", "1: edema"))
    with pytest.raises(ManifestError, match="a finding is listed twice"):
        load_manifest(tmp_path / "m.yaml")


def test_an_archive_is_listed_as_a_folder_is(tmp_path: Path) -> None:
    files(tmp_path, "p1/a.png", "p2/b.png")
    (tmp_path / "t.csv").write_text("file,label\na.png,x\nb.png,y\n")
    text = "    table: {path: t.csv, match: name}\n    label: {column: label}\n"
    text += "    patient: {pattern: '^(p[0-9])'}\n"
    plain = listed(tmp_path, text)
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        for name in ("p1/a.png", "p2/b.png"):
            archive.write(tmp_path / "scans" / name, name)
    packed = listed(tmp_path, text, HEAD.replace("path: scans", "path: scans.zip"))
    assert [(t.name, t.label, t.patient) for t in packed.tasks] == [
        (t.name, t.label, t.patient) for t in plain.tasks
    ]
    assert {task.rule.store for task in packed.tasks} == {"zip"}


def test_how_files_are_read_reaches_the_tasks(tmp_path: Path) -> None:
    files(tmp_path, "a.png")
    label = "    label: {value: x}\n"
    dicom = HEAD.replace("images", "dicom") + "    frames: 7\n    window: none\n    headless: true\n"
    rule = listed(tmp_path, label, dicom + "    colour: grey\n").tasks[0].rule
    assert rule.options == DicomOptions(frames="7", window="none", headless=True, colour="grey")
    nifti = HEAD.replace("images", "nifti") + "    window: [-1000, 400]\n"
    assert listed(tmp_path, label, nifti).tasks[0].rule.options == NiftiOptions(window=(-1000, 400))
    assert listed(tmp_path, label + "    colour: grey\n").tasks[0].rule.options == ImageOptions("grey")
    for head in (
        nifti.replace("400", "-2000"),
        dicom.replace("7", "0"),
        dicom.replace("window: none", "window: some"),
        HEAD + "    frames: each\n",
    ):
        with pytest.raises(ManifestError):
            listed(tmp_path, label, head)


def test_a_prefix_keeps_numbers_apart_and_has_no_place_beside_a_tag(tmp_path: Path) -> None:
    files(tmp_path, "7_a.png")
    text = "    label: {value: x}\n    patient: {pattern: '^([0-9]+)_', prefix: north-}\n"
    assert listed(tmp_path, text).tasks[0].patient == "north-7"
    with pytest.raises(ManifestError, match="prefix requires"):
        listed(
            tmp_path,
            "    label: {value: x}\n    patient: {tag: PatientID, prefix: a}\n",
            HEAD.replace("images", "dicom"),
        )


CELLS = """
    table: {path: t.csv}
    label: {column: label, values: {"=A1": normal, "+x": sick}}
    patient: {column: patient}
    published_splits: {own: part}
    attributes: {sex: sex, age: age, view: {column: view, values: {"@PA": PA}}}
"""


def test_cells_that_look_like_formulas_are_data_and_reach_no_output(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(16)]
    files(tmp_path, *names)
    rows = [
        f'{name},{("=A1", "+x")[n % 2]},"{FORMULA}{n // 2}",train,"{FORMULA}",-5,@PA'
        for n, name in enumerate(names)
    ]
    rows[15] = f'15.png,+x,p,"{FORMULA}",M,50,PA'
    rows[14] = f'14.png,"{FORMULA}",p,train,M,50,"{FORMULA}"'
    (tmp_path / "t.csv").write_text("file,label,patient,part,sex,age,view\n" + "\n".join(rows))
    (tmp_path / "m.yaml").write_text(HEAD + CELLS)
    manifest = load_manifest(tmp_path / "m.yaml")
    tasks = by_name(list_scans(manifest))
    assert tasks["14.png"].refusal == "label not listed in the manifest"
    assert tasks["15.png"].refusal == "part of a published split is not a valid name"
    assert (tasks["0.png"].label, tasks["0.png"].attributes) == ("normal", ("", "", "PA"))
    run_ingest(manifest, tmp_path / "cohort", IngestSettings(image_size=8, workers=1))
    for path in (tmp_path / "cohort").rglob("*"):
        assert not path.is_file() or b"planted" not in path.read_bytes()


def test_a_label_that_is_no_name_never_becomes_a_class(tmp_path: Path) -> None:
    files(tmp_path, "a.png", "b.png")
    (tmp_path / "t.csv").write_text(f'file,label\na.png,"{FORMULA}"\nb.png,x\n')
    (tmp_path / "m.yaml").write_text(HEAD + "    table: {path: t.csv}\n    label: {column: label}\n")
    with pytest.raises(DataError, match="not usable as a class name"):
        run_ingest(
            load_manifest(tmp_path / "m.yaml"), tmp_path / "c", IngestSettings(image_size=8, workers=1)
        )
