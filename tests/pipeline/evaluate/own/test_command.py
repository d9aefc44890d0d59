"""A program as classifier: what it is given, and every way in which what it writes can be wrong."""

from __future__ import annotations

import json
import shlex
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import DataError, RecipeError, UsageError
from pipeline.evaluate.classifiers import classifier_of
from pipeline.evaluate.own.command import read_scores
from pipeline.evaluate.own.process import ChildError
from pipeline.evaluate.plan import classifier_digest
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.truth import Question
from pipeline.recipe import load_recipe
from tests.pipeline.evaluate.own.conftest import ARM, CLASSES, SEED, Train, images

BRIGHTNESS = '''
"""Mean brightness as score, with the standard library alone."""
import csv, json, struct, sys, zlib
from pathlib import Path


def pixels(path):
    data, position, packed = path.read_bytes(), 8, b""
    while position < len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        body = data[position + 8 : position + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
            assert colour == 0 and depth == job["bit_depth"], (colour, depth)
            assert [height, width] == job["image_size"]
        packed += body if kind == b"IDAT" else b""
        position += 12 + length
    raw, size = zlib.decompress(packed), depth // 8
    stride, above, values = width * size, bytes(width * size), []
    for row in range(height):
        kind, line = raw[row * (stride + 1)], bytearray(raw[row * (stride + 1) + 1 :][:stride])
        for i in range(stride):
            left, up = line[i - size] if i >= size else 0, above[i]
            corner = above[i - size] if i >= size else 0
            near = min((left, up, corner), key=lambda v: abs(left + up - corner - v))
            line[i] = (line[i] + (0, left, up, (left + up) // 2, near)[kind]) % 256
        above = bytes(line)
        values += struct.unpack(f">{width}{'BH'[size - 1]}", above)
    return sum(values) / len(values) / (2**depth - 1)


def table(name):
    with open(folder / name, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


folder = Path(sys.argv[-1])
job = json.loads((folder / "job.json").read_text())
means = {
    name: [pixels(folder / row["image"]) for row in table("train.csv") if row["class"] == name]
    for name in job["classes"]
}
low, high = (sum(values) / len(values) for values in means.values())
print("trained with", sys.prefix)
with open(folder / "scores.csv", "w", newline="", encoding="utf-8") as stream:
    writer = csv.writer(stream)
    writer.writerow([job["classes"][1], "image", job["classes"][0]])
    for row in reversed(table("score.csv")):
        p = min(max((pixels(folder / row["image"]) - low) / (high - low), 0), 1)
        writer.writerow([p, row["image"], 1 - p])
'''


def program(folder: Path, body: str) -> str:
    """Write a Python program; return the command that runs it."""
    path = folder / "program.py"
    path.write_text(body, encoding="utf-8")
    return shlex.join([sys.executable, str(path)])


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_a_script_in_another_environment_reads_pngs_and_its_scores_are_those_of_their_images(
    tmp_path: Path, train: Train, bit_depth: int
) -> None:
    home = tmp_path / "another environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    path = tmp_path / "brightness.py"
    path.write_text(BRIGHTNESS, encoding="utf-8")
    command = shlex.join([str(home / "bin" / "python"), str(path), "--an option"])
    [read] = train(classifier="command", command=command, bit_depth=bit_depth)
    brightness = images(np.repeat([0, 1], 4), bit_depth).mean(axis=(1, 2, 3))
    low, high = brightness[:4].mean(), brightness[4:].mean()
    for name, count in (("val", 3), ("test", 4), ("synthetic", 2)):
        values = (images(np.arange(count) % 2, bit_depth).mean(axis=(1, 2, 3)) - low) / (high - low)
        expected = np.clip(np.stack([1 - values, values], axis=1), 0, 1)
        assert read[name].dtype == np.float32 and read[name] == pytest.approx(expected, abs=1e-5)
        assert len(np.unique(read[name])) > 2
    log = tmp_path / "out" / "classifiers" / f"real_balanced-seed-{SEED}.log"
    assert f"trained with {home}" in log.read_text(encoding="utf-8")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert {path.suffix for path in log.parent.iterdir()} == {".log", ".safetensors"}


def test_it_gets_a_private_folder_with_numbered_images_and_what_to_do(tmp_path: Path, train: Train) -> None:
    kept = tmp_path / "kept"
    body = f"import shutil, sys; shutil.copytree(sys.argv[1], {str(kept)!r})"
    with pytest.raises(DataError, match=r"wrote no scores\.csv in arm real_balanced with seed"):
        train(classifier="command", command=program(tmp_path, body))
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert json.loads((kept / "job.json").read_text(encoding="utf-8")) == {
        "arm": "real_balanced",
        "seed": SEED,
        "balanced": True,
        "classes": list(CLASSES),
        "image_size": [5, 7],
        "bit_depth": 8,
    }
    lines = (kept / "train.csv").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["image,class", "train/000000.png,plain"]
    assert lines[-1] == 'train/000007.png,"bright, very"'
    assert (kept / "score.csv").read_text(encoding="utf-8").splitlines()[-1] == "score/000008.png"
    assert len(list(kept.glob("train/*.png"))) == 8 and len(list(kept.glob("score/*.png"))) == 9
    # Nothing of the images stays.
    assert list((tmp_path / "out").rglob("*.png")) == []


ENDINGS = {
    "import sys; sys.exit(3)": "ended with exit code 3",
    "raise KeyError('patient 17')": "ended with exit code 1",
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": "was killed by SIGSEGV",
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": r"was killed by SIGKILL \(.*memory",
    "pass": r"wrote no scores\.csv",
    "import sys; open(sys.argv[1] + '/scores.csv', 'wb').write(b'\\xff\\xfe')": "no CSV table in UTF-8",
}


@pytest.mark.parametrize("body", ENDINGS)
def test_an_end_without_scores_is_named_with_arm_seed_and_log(
    tmp_path: Path, train: Train, body: str
) -> None:
    with pytest.raises(DataError, match=f"{ENDINGS[body]}.* in arm real_balanced with seed {SEED}") as raised:
        train(classifier="command", command=program(tmp_path, body))
    log = tmp_path / "out" / "classifiers" / f"real_balanced-seed-{SEED}.log"
    assert str(log) in str(raised.value) and "patient 17" not in str(raised.value)
    assert ("patient 17" in log.read_text(encoding="utf-8")) == ("patient" in body)
    assert raised.value.field == "evaluate.command"


GOOD = ["image,a,b", "0.png,0.25,0.75", "1.png,1,0", "2.png,0.5,5e-1"]


def changed(line: int, text: str | None) -> list[str]:
    return [*GOOD[:line], *([] if text is None else [text]), *GOOD[line + 1 :]]


TABLES = {
    "an empty file": ([], "without the column image, a, b"),
    "no column of a class": (["image,a", "0.png,1", "1.png,1", "2.png,1"], "without the column b"),
    "no column of images": (changed(0, "name,a,b"), "without the column image"),
    "an unknown column": (
        ["image,a,b,c", "0.png,1,0,0", "1.png,1,0,0", "2.png,1,0,0"],
        "other columns than image, a, b",
    ),
    "a column twice": (["image,a,b,b", *(f"{i}.png,1,0,0" for i in range(3))], "with the column twice: b"),
    "no header": (GOOD[1:], "without the column image, a, b"),
    "an image is missing": (changed(2, None), r"no scores of 1 of 3 images \(first 1\.png\)"),
    "no image": (GOOD[:1], r"no scores of 3 of 3 images"),
    "an image twice": (changed(3, "1.png,1,0"), r"1\.png a second time in line 4"),
    "an unknown image": (changed(3, "secret.png,1,0"), "not in score.csv in line 4"),
    "NaN": (changed(1, "0.png,nan,1"), "not finite in line 2"),
    "an infinite number": (changed(1, "0.png,inf,0"), "not finite in line 2"),
    "text in a cell": (changed(2, "1.png,secret,0"), "text instead of a number in line 3"),
    "an empty cell": (changed(2, "1.png,,1"), "text instead of a number in line 3"),
    "a decimal comma": (changed(1, "0.png,0,25,0,75"), "5 instead of 3 cells in line 2"),
    "a cell too few": (changed(1, "0.png,1"), "2 instead of 3 cells in line 2"),
    "a value below 0": (changed(1, "0.png,-0.1,1.1"), "below 0 or above 1 in line 2"),
    "a value above 1": (changed(1, "0.png,0,1.5"), "below 0 or above 1 in line 2"),
    "a logit for a probability": (changed(1, "0.png,0.9,0.9"), "do not add up to 1 in line 2"),
    "a broken quotation": (changed(3, '2.png,"0.5"x,0.5'), "no CSV table"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_cannot_be_used_is_named_without_its_values(tmp_path: Path, case: str) -> None:
    lines, problem = TABLES[case]
    path = tmp_path / "scores.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ChildError, match=problem) as raised:
        read_scores(path, ["0.png", "1.png", "2.png"], ["a", "b"])
    assert "secret" not in raised.value.problem


def test_a_table_in_any_order_with_blank_lines_and_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(b"\xef\xbb\xbfb,image, a\r\n\r\n0, 2.png ,1\r\n0.75,0.png,0.25\r\n1e-3,1.png,.999\r\n")
    read = read_scores(path, ["0.png", "1.png", "2.png"], ["a", "b"])
    assert read == pytest.approx(np.array([[0.25, 0.75], [0.999, 0.001], [1, 0]]))


def test_a_program_that_is_not_there_or_not_executable_is_refused_before_any_training(
    tmp_path: Path, train: Train
) -> None:
    plain = tmp_path / "train.sh"
    plain.write_text("#!/bin/sh\n", encoding="utf-8")
    for command in ("phosphor-no-such-program", str(tmp_path / "nothing"), str(plain), str(tmp_path)):
        with pytest.raises(UsageError, match="not found, or not executable"):
            train(classifier="command", command=command)
    assert not (tmp_path / "out").exists()
    # What the system finds out only when it starts it.
    plain.write_bytes(b"\x7fELF no program")
    plain.chmod(0o700)
    with pytest.raises(DataError, match="could not be started in arm"):
        train(classifier="command", command=str(plain))


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["evaluate.classifier=command"], "needs command"),
        (["evaluate.command=python train.py"], "no effect without classifier=command"),
        (["evaluate.classifier=command", "evaluate.command=python 'train.py"], "No closing quotation"),
        (["evaluate.classifier=command", "evaluate.command='  '"], "needs command"),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides: list[str], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        load_recipe("smoke", overrides)


FINDINGS_PROGRAM = """
import csv, json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
assert job["findings"] == ["dim", "bright"] and "classes" not in job
with open(folder / "train.csv", newline="") as stream:
    rows = list(csv.DictReader(stream))
assert list(rows[0]) == ["image", "dim", "bright"]
cells = [(row["dim"], row["bright"]) for row in rows]
assert cells[0] == ("1", "0") and cells[2] == ("1", "") and cells[6] == ("", "1"), cells
with open(folder / "score.csv", newline="") as stream:
    images = [row["image"] for row in csv.DictReader(stream)]
with open(folder / "scores.csv", "w", newline="") as stream:
    csv.writer(stream).writerows([["bright", "image", "dim"], *([0.9, name, 0.7] for name in images)])
"""


def test_a_program_is_given_findings_and_scores_each_by_itself(tmp_path: Path, train: Train) -> None:
    program = tmp_path / "program.py"
    program.write_text(FINDINGS_PROGRAM, encoding="utf-8")
    command = shlex.join([sys.executable, str(program)])
    [scores] = train(findings=True, classifier="command", command=command)
    assert scores["test"] == pytest.approx(np.tile([0.7, 0.9], (4, 1)))


def test_a_class_called_image_cannot_be_told_from_the_column(tmp_path: Path) -> None:
    settings = EvaluateSettings(classifier="command", command=sys.executable)
    with pytest.raises(UsageError, match="also a class or finding"):
        classifier_of(settings, Question(("image", "other")), tmp_path)


def test_trained_ones_are_kept_after_a_failure_and_used_by_the_second_call(
    tmp_path: Path, train: Train
) -> None:
    (tmp_path / "brightness.py").write_text(BRIGHTNESS, encoding="utf-8")
    body = f"""
import json, pathlib, runpy, sys
here, job = pathlib.Path({str(tmp_path)!r}), json.loads(open(sys.argv[1] + "/job.json").read())
with open(here / "calls", "a") as stream:
    stream.write(job["arm"] + " ")
if job["arm"] == "real_duplicated-2" and not (here / "repaired").exists():
    sys.exit(9)
runpy.run_path(str(here / "brightness.py"))
"""
    arms = (ARM, replace(ARM, name="real"), replace(ARM, name="real_duplicated", ratio=2.0))
    given = {"classifier": "command", "command": program(tmp_path, body)}
    with pytest.raises(DataError, match="exit code 9 in arm real_duplicated-2"):
        [train((arm,), **given) for arm in (arms[0], arms[2])]
    (tmp_path / "repaired").touch()
    assert len(train(arms, **given)) == 3
    calls = (tmp_path / "calls").read_text(encoding="utf-8").split()
    assert sorted(calls) == ["real", "real_balanced", "real_duplicated-2", "real_duplicated-2"]


def test_the_digest_is_that_of_the_files_of_the_command(tmp_path: Path) -> None:
    settings = EvaluateSettings(classifier="command", command=program(tmp_path, "pass") + f" {'x' * 300} --a")
    first = classifier_digest(settings)
    assert first and classifier_digest(settings) == first
    program(tmp_path, "pass  # changed")
    assert classifier_digest(settings) not in (first, None, "")
    assert classifier_digest(EvaluateSettings()) is None
    assert classifier_digest(EvaluateSettings(classifier="command", command="phosphor-no-such")) == ""
    # A longer limit goes on with what is there.
    assert settings.content_settings() == settings.model_copy(update={"classifier_minutes": 30.0})
