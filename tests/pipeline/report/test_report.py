"""The report of whole run folders: what it says at the top, what it never says, and that it stands alone."""

from __future__ import annotations

import re
import shutil
import stat
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.evaluation_report import Estimate
from pipeline.errors import DataError
from pipeline.records import Verdict
from pipeline.report import REPORT_NAME, write_report
from pipeline.report.folder import open_run
from pipeline.report.page import CONTENTS
from pipeline.report.verdicts import headlines
from tests.pipeline.report.runs import Case, write_run

HOSTILE = '<script>alert("x")</script>'


class Page(HTMLParser):
    """The parts of a page that a browser would act on, and its visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self._hidden = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._hidden += tag in {"style", "script"}
        for name, value in attrs:
            if name in {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}:
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            assert not name.startswith("on"), f"event handler {name}"

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in {"style", "script"}

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).replace("\u00a0", " ").split())

    def before(self, heading: str) -> str:
        # The heading stands in the table of contents too.
        return self.text.rsplit(heading, 1)[0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a finished run folder, report included, of each case."""
    root = tmp_path_factory.mktemp("runs")
    cases = {
        "complete": Case(notes=("289 patients stand in both published parts",)),
        "refused": Case(Verdict.FAIL, released=False),
        "strict": Case(Verdict.INCONCLUSIVE, released=False),
        "research": Case(Verdict.INCONCLUSIVE, policy="research"),
        "sign": Case(Verdict.INCONCLUSIVE, policy="research", sign=True),
        "no_patients": Case(Verdict.INCONCLUSIVE, policy="research", patients=False),
        "hostile": Case(classes=(HOSTILE, "a&b", "{{ 7 * 7 }}"), notes=(HOSTILE,)),
    }
    folders = {name: write_run(root / name, case) for name, case in cases.items()}
    for folder in folders.values():
        assert write_report(folder) == folder / REPORT_NAME
    return folders


def page(folder: Path) -> Page:
    return Page((folder / REPORT_NAME).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["complete", "refused", "strict", "research", "no_patients", "hostile"])
def test_every_report_stands_alone_and_is_private(runs: dict[str, Path], name: str) -> None:
    path = runs[name] / REPORT_NAME
    text = path.read_text(encoding="utf-8")
    found = page(runs[name])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "PRIVATE This page shows real patients" in found.text
    assert found.addresses
    assert all(address.startswith(("data:image/", "#")) for address in found.addresses)
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(found.tags)
    assert not re.search(r"url\(|@import|https?://", text.split("</style>")[0])
    assert "default-src 'none'" in text


@pytest.mark.parametrize("name", ["complete", "refused", "no_patients"])
def test_every_section_is_there_and_in_the_contents(runs: dict[str, Path], name: str) -> None:
    found = page(runs[name])
    anchors = [address[1:] for address in found.addresses if address.startswith("#")]
    assert anchors == [anchor for anchor, _ in CONTENTS]
    assert len(set(found.ids)) == len(found.ids)
    assert set(anchors) <= set(found.ids)


@pytest.mark.parametrize("name", ["complete", "refused", "research"])
def test_no_promise_is_made(runs: dict[str, Path], name: str) -> None:
    text = page(runs[name]).text.lower()
    assert "measured privacy risk" in text
    assert "anonym" not in text
    assert "guarantee" not in text


def test_a_complete_run_shows_its_verdicts_tables_and_pictures(runs: dict[str, Path]) -> None:
    found = page(runs["complete"])
    top = found.before("What was requested")
    assert "PASS" in top
    assert "36 synthetic images were released" in top
    assert "No measurable effect" in top
    assert "93 % or more agree" in top
    assert "INCONCLUSIVE" not in top
    assert "What to change" not in top
    assert "289 patients stand in both published parts." in found.text
    assert "Synthetic: 8 images, released" in found.text
    assert "Real + synthetic images (ratio 0.5)" in found.text
    assert "best without synthetic" in found.text
    assert "3.7 % of 330 real scans that were not used for tuning" in found.text
    assert "could not tell whether the rate is within the budget" in found.text
    assert "shift 2 pixels" in found.text
    assert "Estimated share of copies among all candidates." in found.text
    assert "divided by the distance to the nearest scan of any other patient" in found.text
    assert "176 images per second (median)" in found.text
    assert "5 min 12 s" in found.text
    assert "176 images per second while training" in found.text
    assert "57 scans per second" in found.text
    # Two sheets a class, eight pairs twice, four snapshots, three charts.
    assert found.tags.count("img") == 3 * (2 + 2 * 16) + 4 + 3


def test_a_refused_run_says_why_and_what_to_change(runs: dict[str, Path]) -> None:
    found = page(runs["refused"])
    top = found.before("What was requested")
    assert "Nothing was released." in top
    assert "Refused" in top
    assert "a FAIL verdict is never released" in top
    assert "The most copy-like images of class disc lie nearer to training scans than chance" in top
    assert "Nothing was released, so nothing was evaluated." in found.text
    assert "candidates, none accepted" in found.text
    assert "accepted one by one, not released" in found.text
    assert ", released" not in found.text


def test_a_strict_refusal_of_inconclusive_names_the_policy(runs: dict[str, Path]) -> None:
    top = page(runs["strict"]).before("What was requested")
    assert "the strict policy does not release INCONCLUSIVE" in top
    assert "Nothing was released." in top
    assert "release.policy=research" in top
    assert "with a probability of 41 % in the class where they are weakest; PASS needs 80 %" in top


def test_an_inconclusive_release_says_so_first(runs: dict[str, Path]) -> None:
    top = page(runs["research"]).before("What was requested")
    assert top.index("The privacy verdict is INCONCLUSIVE.") < top.index("Released for research")
    assert "The holdout has 24 patients; the policy asks for 50." in top
    assert "release.policy=research" not in top
    assert "No test failed, but the tests were too weak to tell. Treat the images as if" in top


def test_a_sign_short_of_failing_stands_at_the_top_and_in_the_risk_table(runs: dict[str, Path]) -> None:
    found = page(runs["sign"])
    top = found.before("What was requested")
    assert "too weak to tell, and there is a sign of a leak: a sign that the accepted images reveal" in top
    assert "release_combined (AUC 0.93, 7 members and 6 non-members, p = 0.012)" in top
    assert "The released images show a sign of revealing who was in the training data" in found.text
    assert "found nothing" not in found.text and "not found to tell" not in found.text


def test_tests_without_power_are_not_shown_as_passed(runs: dict[str, Path]) -> None:
    found = page(runs["research"])
    assert "Of 8 tests on the images, none failed; 8 could not tell (each by itself" in found.text
    assert "could not tell" in found.text and "passed" not in found.text
    strong = page(runs["complete"])
    assert "Of 8 tests on the images, none failed; 8 found nothing and would have detected" in strong.text
    assert "could not tell (each by itself" not in strong.text


@pytest.mark.parametrize(
    ("agreement", "real", "status", "said"),
    [
        (0.8, 0.8, "Could not tell", "at fault where the classifier is not clearly better on real scans"),
        (0.8, 0.97, "80 % or more agree", "The classifier is better on real scans: "),
        (0.5, 0.97, "Unclear", "Agreement cannot be distinguished from chance (the control) for "),
        (0.95, 0.5, "95 % or more agree", "classifies 95.0 % of the 40 images of "),
    ],
)
def test_labels_are_judged_as_far_as_their_reader_and_chance_allow(
    runs: dict[str, Path], agreement: float, real: float, status: str, said: str
) -> None:
    run = open_run(runs["complete"])
    assert run.evaluation is not None

    def alike(value: float) -> dict[str, Estimate]:
        share = Estimate(value=value, low=value - 0.04, high=min(1.0, value + 0.04), n=40)
        return dict.fromkeys(("disc", "bar", "ring"), share)

    read = {"label_agreement": alike(agreement), "label_agreement_real": alike(real)}
    read["label_agreement_shuffled"] = alike(0.5)
    found = headlines(replace(run, evaluation=run.evaluation.model_copy(update=read)))[-1]
    assert found.status.replace("\u00a0", " ") == status
    assert said in " ".join(found.words).replace("\u00a0", " ")


def test_an_external_test_is_shown_beside_the_internal_one(runs: dict[str, Path]) -> None:
    found = page(runs["complete"])
    assert "External test: other ring" in found.text
    assert "another site: 912 scans of 640 patients. All its splits count" in found.text
    assert "This cohort was read 2 times" in found.text
    assert "changed AUC on other ring by +0.0200: helps. The verdict of this report is that of" in found.text
    assert "Internal test External test Drop" in found.text
    row = "Real + synthetic images (ratio 0.5) chosen synthetic arm 0.962 0.944 to 0.980 0.882 0.854 to 0.910"
    assert f"{row} 0.080 0.050 to 0.110" in found.text
    assert "Real images best without synthetic there 0.958 0.940 to 0.976 0.878" in found.text
    assert "3 of its patient ids are also ids of the release's cohort." in found.text
    verdicts = found.before("What was requested")
    assert "No measurable effect" in verdicts and "other ring" not in verdicts


def test_delong_stands_beside_the_bootstrap_with_what_it_leaves_out(runs: dict[str, Path]) -> None:
    text = page(runs["complete"]).text
    assert "averaged over the seeds: -0.0018 (95 % interval -0.0101 to +0.0065, p = 0.671)." in text
    assert (
        "takes the scans as independent, whatever patient they are of, and the classifiers as fixed" in text
    )


def test_missing_patient_ids_are_shown_in_red(runs: dict[str, Path]) -> None:
    text = (runs["no_patients"] / REPORT_NAME).read_text(encoding="utf-8")
    assert '<div class="notice bad"><p><strong>No patient ids.</strong>' in text
    found = page(runs["no_patients"])
    assert "No patient is in two splits" not in found.text
    assert "(patients not known)" in found.text
    assert "No patient ids." not in page(runs["complete"]).text


def test_hostile_names_stay_text(runs: dict[str, Path]) -> None:
    found = page(runs["hostile"])
    assert HOSTILE in found.text
    assert "{{ 7 * 7 }}" in found.text
    assert "49 " not in found.before("What was requested")
    assert "script" not in found.tags


def test_the_same_outputs_give_the_same_bytes(runs: dict[str, Path]) -> None:
    first = (runs["complete"] / REPORT_NAME).read_bytes()
    assert write_report(runs["complete"]).read_bytes() == first


def test_no_path_of_this_machine_is_shown(runs: dict[str, Path]) -> None:
    for folder in runs.values():
        assert str(folder.parent) not in (folder / REPORT_NAME).read_text(encoding="utf-8")


def test_an_empty_run_names_every_output_as_not_made(tmp_path: Path) -> None:
    write_report(tmp_path)
    found = page(tmp_path)
    for stage in ("cohort", "checkpoint", "candidates", "audit", "release", "evaluation"):
        assert f"The {stage} of this run: not made." in found.text
    assert "img" not in found.tags


def test_a_run_cut_short_after_training_shows_what_there_is(runs: dict[str, Path], tmp_path: Path) -> None:
    for stage in ("cohort", "checkpoint"):
        shutil.copytree(runs["complete"] / stage, tmp_path / stage)
    (tmp_path / "candidates").mkdir()
    (tmp_path / "candidates" / "inputs.json").write_text("{}")
    write_report(tmp_path)
    found = page(tmp_path)
    assert "started, not finished" in found.text
    assert "Real: 8 scans of the train split" in found.text
    assert "No synthetic images to show." in found.text
    assert "400 (25,600 images seen)" in found.text


def test_a_release_left_over_from_another_audit_is_not_called_released(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(runs["refused"], tmp_path, dirs_exist_ok=True)
    for stage in ("release", "evaluation"):
        shutil.copytree(runs["research"] / stage, tmp_path / stage)
    write_report(tmp_path)
    found = page(tmp_path)
    assert "left over from another audit, so it is not shown" in found.text
    assert "left over from another release, so it is not shown" in found.text
    assert "Refused" in found.before("What was requested")
    assert "images were released" not in found.text


def test_candidates_of_another_cohort_are_not_shown(runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["complete"], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "cohort")
    shutil.copytree(runs["research"] / "cohort", tmp_path / "cohort")
    other = tmp_path / "cohort" / "reference.json"
    digest = re.search(r'"digest": "([0-9a-f]{64})"', other.read_text())
    assert digest is not None
    other.write_text(other.read_text().replace(digest[1], "0" * 64))
    write_report(tmp_path)
    found = page(tmp_path)
    assert "The checkpoint of this run: left over from another cohort, so it is not shown." in found.text
    assert "No synthetic images to show." in found.text


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("audit/privacy_report.json", b"{"),
        ("audit/candidates.parquet", b"PAR1 nothing"),
        ("checkpoint/progress.csv", b"step,loss\nx,\xff\n"),
        ("checkpoint/checkpoint.json", b"[]"),
        ("evaluation/evaluation.json", b'{"arms": 1}'),
        ("candidates/pixels-00000.npy", b"not numpy"),
        ("cohort/rejected.parquet", b""),
        ("recipe.yaml", b"a: [\n"),
        ("timings.json", b'{"train": "x"}'),
    ],
)
def test_a_damaged_file_is_named_or_left_out_and_the_rest_is_shown(
    runs: dict[str, Path], tmp_path: Path, name: str, body: bytes
) -> None:
    shutil.copytree(runs["complete"], tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_bytes(body)
    write_report(tmp_path)
    found = page(tmp_path)
    assert set(found.ids) >= {anchor for anchor, _ in CONTENTS}
    assert "Real: 8 scans of the train split" in found.text
    assert str(tmp_path) not in (tmp_path / REPORT_NAME).read_text(encoding="utf-8")


def test_sixteen_bit_pixels_are_shown(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 65_536, (80, 1, 16, 16), dtype=np.uint16)
    labels = np.repeat([0, 1], 40)
    case = Case(classes=("a", "b"), pixels=pixels, labels=labels, released=False)
    write_report(write_run(tmp_path / "run", case))
    assert page(tmp_path / "run").tags.count("img") > 4


def test_a_run_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run: is not a folder"):
        write_report(tmp_path / "missing")
