"""A function as classifier: it is called in a process of its own, with the arguments of `FitPredict`."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.pixels import to_model_range
from pipeline.errors import DataError, UsageError
from pipeline.evaluate.classifiers import classifier_of
from pipeline.evaluate.own.function import main
from pipeline.evaluate.plan import classifier_digest
from pipeline.evaluate.settings import EvaluateSettings
from tests.pipeline.evaluate.own.conftest import ARM, QUESTION, SEED, Train, images

SOURCE = """
import os, signal, sys
import numpy as np
from pathlib import Path

from pipeline.evaluate.training import Fit


def scikit_learn(arm, parts, asked, *, num_classes, seed):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    [(images, labels)] = parts
    model = make_pipeline(StandardScaler(), LogisticRegression(random_state=seed))
    model.fit(images.reshape(len(images), -1), labels)
    read = tuple(model.predict_proba(part.reshape(len(part), -1)) for part in asked)
    return Fit(read, {"step": [1], "seen": [len(images), num_classes]})


def arguments(arm, parts, asked, *, num_classes, seed):
    images, labels = parts[0]
    images += 0  # it may write to its own copy
    print(repr((arm, images.dtype, images.shape, labels, [part.shape for part in asked], num_classes, seed)))
    print("threads", os.environ["OMP_NUM_THREADS"], "here", sys.path.count(os.getcwd()), os.getcwd())
    return even(arm, parts, asked, num_classes=num_classes, seed=seed)


def even(arm, parts, asked, *, num_classes, seed):
    return Fit(tuple(np.full((len(part), num_classes), 1 / num_classes) for part in asked))


even.arms = {"pretrained", "real"}


def gives(change):
    def function(arm, parts, asked, *, num_classes, seed):
        fit = even(arm, parts, asked, num_classes=num_classes, seed=seed)
        return change(fit.probabilities)

    return function


def _raise(scores):
    raise KeyError("patient 17")


raises = gives(_raise)
leaves = gives(lambda scores: os._exit(0))
crashes = gives(lambda scores: os.kill(os.getpid(), signal.SIGSEGV))
nothing = gives(lambda scores: None)
objects = gives(lambda scores: Fit(tuple(np.array([[object()] * 2] * len(part)) for part in scores)))
curve = gives(lambda scores: Fit(scores, {"loss": [float("nan")]}))
number = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_classifiers.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "own_classifiers"


def test_a_pipeline_of_scikit_learn_is_trained_and_read(tmp_path: Path, train: Train) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    [read] = train(classifier="own_classifiers:scikit_learn")
    labels = np.repeat([0, 1], 4)
    model = make_pipeline(StandardScaler(), LogisticRegression(random_state=SEED))
    model.fit(to_model_range(images(labels)).reshape(8, -1), labels)
    for name, count in (("val", 3), ("test", 4), ("synthetic", 2)):
        expected = model.predict_proba(to_model_range(images(np.arange(count) % 2)).reshape(count, -1))
        assert read[name].dtype == np.float32 and read[name] == pytest.approx(expected, abs=1e-5)
    assert "own_classifiers" not in sys.modules  # it was never imported here
    assert list((tmp_path / "out").rglob("*.npy")) == []


def test_it_is_given_the_arguments_of_the_interface_and_finds_its_modules(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *(entry for entry in sys.path if entry != str(tmp_path))])
    train(classifier="own_classifiers:arguments")
    log = tmp_path / "out" / "classifiers" / f"real_balanced-seed-{SEED}.log"
    said, more = log.read_text(encoding="utf-8").splitlines()
    shapes = [(3, 1, 5, 7), (4, 1, 5, 7), (2, 1, 5, 7)]
    labels = np.repeat([0, 1], 4)
    assert said == repr((ARM, np.dtype("float32"), (8, 1, 5, 7), labels, shapes, 2, SEED))
    assert more.startswith("threads ") and more.endswith(f" here 1 {Path.cwd()}")


PROBLEMS = {
    "raises": r"failed \(KeyError\)",
    "leaves": "ended its process",
    "crashes": "was killed by SIGSEGV",
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_whatever_it_does_is_named_with_arm_and_seed(tmp_path: Path, train: Train, name: str) -> None:
    with pytest.raises(DataError, match=f"{PROBLEMS[name]} in arm real_balanced with seed {SEED}") as raised:
        train(classifier=f"own_classifiers:{name}")
    assert "patient 17" not in str(raised.value)
    log = tmp_path / "out" / "classifiers" / f"real_balanced-seed-{SEED}.log"
    assert str(log) in str(raised.value)
    assert ("patient 17" in log.read_text(encoding="utf-8")) == (name == "raises")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nothing", "failed (AttributeError)"),
        ("objects", "failed (TypeError)"),
        ("curve", "failed (ValueError)"),
        ("missing", "cannot be imported (AttributeError)"),
        ("number", "is not a function"),
    ],
)
def test_what_is_no_function_or_returns_no_fit_is_told_by_its_process(
    tmp_path: Path, name: str, problem: str
) -> None:
    job = {"function": f"own_classifiers:{name}", "call": None}
    if name in ("nothing", "objects", "curve"):
        np.save(tmp_path / "asked-0.npy", images(np.array([0, 1])))
        counts = {"parts": 0, "asked": 1, "num_classes": 2, "seed": 1}
        job["call"] = {"arm": asdict(ARM), **counts}
    (tmp_path / "job.json").write_text(json.dumps(job), encoding="utf-8")
    try:
        with contextlib.suppress(Exception):
            main(tmp_path)
    finally:
        sys.modules.pop("own_classifiers", None)
    assert json.loads((tmp_path / "failure.json").read_text(encoding="utf-8")) == problem
    assert not (tmp_path / "result.json").exists()


def test_its_arms_are_those_that_it_names(tmp_path: Path) -> None:
    settings = EvaluateSettings(classifier="own_classifiers:even")
    assert classifier_of(settings, QUESTION, tmp_path).arms == {"pretrained", "real"}


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("import phosphor_no_such_module", r"cannot be imported \(ModuleNotFoundError\)"),
        ("import os; os.abort()", "cannot be imported: it was killed by SIGABRT"),
        ("import os; os._exit(0)", "cannot be imported: it ended its process"),
        ("import time; time.sleep(600)", "cannot be imported: it took more than 0.02 min"),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused_and_does_no_harm(
    tmp_path: Path, body: str, problem: str
) -> None:
    (tmp_path / "own_broken.py").write_text(body, encoding="utf-8")
    settings = EvaluateSettings(classifier="own_broken:f", classifier_minutes=0.02 if "sleep" in body else 30)
    with pytest.raises(UsageError, match=problem):
        classifier_of(settings, QUESTION, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_digest_is_that_of_its_file_and_imports_nothing(tmp_path: Path) -> None:
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    (package / "inner.py").write_text("def f(): ...", encoding="utf-8")
    digests = {
        classifier_digest(EvaluateSettings(classifier=f"{name}:f"))
        for name in ("own_package.inner", "own_package", "own_classifiers")
    }
    assert len(digests) == 3 and not digests & {None, ""}
    (package / "inner.py").write_text("def f(): pass", encoding="utf-8")
    assert classifier_digest(EvaluateSettings(classifier="own_package.inner:f")) not in digests
    for unknown in ("own_package.none", "own_none.inner", "own_classifiers.inner"):
        assert classifier_digest(EvaluateSettings(classifier=f"{unknown}:f")) == ""
