"""What is given steers the image, what is not follows the train split, and combinations are free."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.artifacts.candidates import CANDIDATE_COLUMNS, Candidates
from pipeline.artifacts.checkpoint import CheckpointInfo, load_denoiser, read_checkpoint_info
from pipeline.artifacts.condition_counts import Combination
from pipeline.errors import DataError, UsageError
from pipeline.records import CheckpointRef, CohortRef
from pipeline.sample import SampleSettings, run_sample
from pipeline.sample.conditions import AskedConditions
from pipeline.sample.draw import draw_candidates, list_candidates
from pipeline.stage import open_stage
from pipeline.storage import read_json, write_json
from pipeline.train import TrainSettings, run_train
from tests.checkpoints import description
from tests.cohorts import write_cohort

NETWORK = {"channels": (16,), "attention": (False,), "num_head_channels": 8, "num_norm_groups": 8}
SIZE = 8
CORNERS = {
    "mass": (slice(None), 0, slice(0, 4), slice(0, 4)),
    "miliary": (slice(None), 0, slice(4, 8), slice(4, 8)),
    "M": (slice(None), 0, slice(0, 4), slice(4, 8)),
}


def scans(count: int) -> dict[str, Any]:
    """Return scans whose conditions are bright corners: `mass`, `miliary`, sex M. Mass and M never meet."""
    rng = np.random.default_rng(3)
    patient = np.arange(count) // 2
    finding = patient % 4  # 0 and 1: none; 2: mass; 3: miliary
    male = (patient // 4 % 3 == 0) & (finding != 2)
    pixels = rng.normal(60, 12, (count, 1, SIZE, SIZE))
    for name, shown in (("mass", finding == 2), ("miliary", finding == 3), ("M", male)):
        _, *square = CORNERS[name]
        pixels[(shown, *square)] += 150
    return {
        "pixels": np.clip(pixels, 0, 255).astype(np.uint8),
        "labels": np.array([2, 2, 0, 1])[finding],
        "classes": ("mass", "miliary", "no_finding"),
        "attributes": {"sex": np.where(male, "M", "F").tolist(), "view": ["PA"] * count},
        "findings": {"mass": (finding == 2).astype(int), "miliary": (finding == 3).astype(int)},
        "shares": (1, 0, 0, 0),
    }


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortRef:
    return write_cohort(tmp_path_factory.mktemp("conditions") / "cohort", **scans(480))


@pytest.fixture(scope="module")
def checkpoint(cohort: CohortRef, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    settings = TrainSettings(
        num_steps=200,
        batch_size=32,
        learning_rate=8e-3,
        warmup_steps=10,
        precision="fp32",
        num_threads=1,
        grid_every_steps=0,
        conditions=("sex", "view", "findings"),
        **NETWORK,
    )
    return run_train(cohort, tmp_path_factory.mktemp("conditions") / "checkpoint", settings, seed=1)


def sampling(**fields: Any) -> SampleSettings:
    return SampleSettings(
        **{"per_class": 16, "overdraw": 1, "num_steps": 6, "batch_size": 16, "shard_size": 16, **fields}
    )


def drawn(checkpoint: CheckpointRef, out: Path, classes: list[str], **fields: Any) -> Candidates:
    return Candidates(run_sample(checkpoint, out, sampling(**fields), seed=5, classes=classes).path)


def brightness(candidates: Candidates) -> dict[str, float]:
    """Return the mean value of each corner."""
    pixels = candidates.take(list(range(len(candidates)))).astype(float)
    return {name: float(pixels[corner].mean()) for name, corner in CORNERS.items()}


def test_the_checkpoint_tells_its_conditions_and_how_often_they_occur(checkpoint: CheckpointRef) -> None:
    info = read_checkpoint_info(checkpoint.path)
    assert [(field.name, field.values) for field in info.conditions] == [
        ("sex", ("F", "M")),
        ("mass", ("absent", "present")),
        ("miliary", ("absent", "present")),
    ]
    assert info.network["conditions"] == [2, 2, 2]
    assert info.combinations == (
        Combination(label=0, codes=(0, 1, 0), scans=120),
        Combination(label=1, codes=(0, 0, 1), scans=80),
        Combination(label=1, codes=(1, 0, 1), scans=40),
        Combination(label=2, codes=(0, 0, 0), scans=160),
        Combination(label=2, codes=(1, 0, 0), scans=80),
    )


def test_a_finding_that_is_given_shows_in_the_image(checkpoint: CheckpointRef, tmp_path: Path) -> None:
    mass = brightness(drawn(checkpoint, tmp_path / "m", ["mass"], given={"findings": ["mass"]}))
    miliary = brightness(drawn(checkpoint, tmp_path / "e", ["miliary"], given={"findings": ["miliary"]}))
    assert mass["mass"] > miliary["mass"] + 60
    assert miliary["miliary"] > mass["miliary"] + 60


def test_a_combination_never_seen_in_training_can_be_asked_for(
    checkpoint: CheckpointRef, tmp_path: Path
) -> None:
    both = drawn(checkpoint, tmp_path / "b", ["mass"], given={"findings": ["mass"], "sex": "M"})
    seen = drawn(checkpoint, tmp_path / "m", ["mass"], given={"findings": ["mass"], "sex": "F"})
    assert set(both.table["condition"]) == {'{"sex":"M","findings":{"mass":1,"miliary":0}}'}
    assert brightness(both)["M"] > brightness(seen)["M"] + 10
    assert brightness(both)["mass"] > 120


def test_what_is_not_given_is_as_frequent_as_in_training(checkpoint: CheckpointRef) -> None:
    info = read_checkpoint_info(checkpoint.path)
    candidates = AskedConditions(info, sampling()).fill(list_candidates([0, 1, 2], 3000, 7))
    counts = Counter((candidate.label, candidate.codes) for candidate in candidates)
    of_class = Counter({row.label: 0 for row in info.combinations})
    for row in info.combinations:
        of_class[row.label] += row.scans
    assert set(counts) == {(row.label, row.codes) for row in info.combinations}
    for row in info.combinations:
        # Three standard errors of a share of 3,000 are 0.027.
        expected = row.scans / of_class[row.label]
        assert counts[row.label, row.codes] / 3000 == pytest.approx(expected, abs=0.027)


def test_given_conditions_keep_the_others_as_frequent_as_they_occur_with_them() -> None:
    info = described(
        [Combination(label=0, codes=codes, scans=scans) for codes, scans in
         (((0, 0, 1), 30), ((1, 0, 1), 10), ((0, 1, 0), 500))]
    )  # fmt: skip
    asked = AskedConditions(info, sampling(given={"miliary": "present"}))
    codes = Counter(candidate.codes for candidate in asked.fill(list_candidates([0], 2000, 1)))
    assert set(codes) == {(0, 0, 1), (1, 0, 1)}
    assert codes[0, 0, 1] / 2000 == pytest.approx(0.75, abs=0.03)


def test_unspecified_leaves_the_rest_open(checkpoint: CheckpointRef, tmp_path: Path) -> None:
    candidates = drawn(checkpoint, tmp_path / "c", ["mass"], others="unspecified", given={"sex": "M"})
    assert set(candidates.table["condition"]) == {'{"sex":"M","findings":{"mass":null,"miliary":null}}'}


def test_a_candidate_made_alone_has_the_condition_and_pixels_of_the_batch(
    checkpoint: CheckpointRef, tmp_path: Path
) -> None:
    whole = Candidates(run_sample(checkpoint, tmp_path / "c", sampling(), seed=5).path)
    assert len(whole.table["condition"].unique()) == 5
    denoiser, info = load_denoiser(checkpoint.path)
    asked = AskedConditions(info, sampling())
    for label, index, row in ((0, 3, 3), (2, 15, 47)):
        (alone,) = asked.fill([list_candidates([label], index + 1, 5)[index]])
        assert asked.text(alone) == whole.table["condition"].iloc[row]
        pixels = draw_candidates(denoiser, [alone], sampling(), bit_depth=8)
        assert np.array_equal(pixels, whole.take([row]))


def described(combinations: list[Combination] | None = None, **fields: Any) -> CheckpointInfo:
    """Return the description of a checkpoint with sex and two findings, of which `mass` is a class."""
    body = description(
        classes=("mass", "miliary", "no_finding"),
        conditions=[
            {"name": "sex", "values": ("F", "M")},
            {"name": "mass", "values": ("absent", "present")},
            {"name": "miliary", "values": ("absent", "present")},
        ],
        combinations=combinations or [],
    )
    return CheckpointInfo.model_validate(body | fields)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"age_band": "40-49"}, r"sample\.given: the checkpoint knows no such condition.*'sex'"),
        ({"sex": "X"}, r"sample\.given\.sex: .*no such value.*'F', 'M'"),
        ({"sex": ["F"]}, r"sample\.given\.sex: .*no such value"),
        ({"mass": "yes"}, r"sample\.given\.mass: .*'absent', 'present'"),
        ({"findings": ["hernia"]}, r"sample\.given\.findings: .*no such finding.*'mass', 'miliary'"),
        ({"findings": ["mass"], "miliary": "present"}, r"sample\.given\.miliary: contradicts"),
    ],
)
def test_unknown_conditions_are_refused_with_the_known_ones(given: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        AskedConditions(described(), sampling(given=given))
    assert caught.value.exit_code == 2


def test_a_checkpoint_of_classes_alone_takes_no_conditions() -> None:
    with pytest.raises(UsageError, match="classes alone"):
        AskedConditions(described(conditions=[]), sampling(given={"sex": "F"}))


def test_classes_that_contradict_what_is_given_are_not_drawn() -> None:
    asked = AskedConditions(described(), sampling(given={"findings": ["miliary"]}))
    assert asked.choose_labels([0, 1, 2], named=False) == [1]
    with pytest.raises(UsageError, match=r"class mass.*\['miliary'\]"):
        asked.choose_labels([0, 1], named=True)
    healthy = AskedConditions(described(), sampling(given={"findings": []}))
    assert healthy.choose_labels([0, 1, 2], named=False) == [2]
    assert AskedConditions(described(), sampling()).choose_labels([0, 2], named=False) == [0, 2]


def test_what_asks_for_the_same_has_the_same_settings() -> None:
    one = sampling(given={"sex": "F", "findings": ["mass", "miliary"]})
    other = sampling(given={"findings": ["miliary", "mass", "mass"], "sex": "F"})
    assert one.digest() == other.digest()


def test_candidates_of_classes_alone_have_no_condition_column(
    tiny_cohort_16: CohortRef, tmp_path: Path
) -> None:
    settings = TrainSettings(num_steps=2, batch_size=4, precision="fp32", grid_every_steps=0, **NETWORK)
    made = run_train(tiny_cohort_16, tmp_path / "checkpoint", settings, seed=1)
    reference = run_sample(made, tmp_path / "c", sampling(per_class=2), seed=5)
    stored = pd.read_parquet(reference.path / "candidates.parquet")
    assert tuple(stored.columns) == CANDIDATE_COLUMNS
    assert set(Candidates(reference.path).table["condition"]) == {""}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"conditions": []}, "does not fit the conditions"),
        ({"combinations": [{"label": 0, "codes": [0, 1], "scans": 3}]}, "do not fit"),
        ({"combinations": [{"label": 0, "codes": [0, 1, 9], "scans": 3}]}, "out of range"),
    ],
)
def test_a_checkpoint_whose_conditions_differ_from_its_network_is_refused(
    checkpoint: CheckpointRef, tmp_path: Path, change: dict[str, Any], match: str
) -> None:
    class _NoSettings(SampleSettings):
        pass

    body = read_json(checkpoint.path / "checkpoint.json", role="checkpoint")
    with open_stage(CheckpointRef, tmp_path / "c", inputs={}, settings=_NoSettings()) as stage:
        write_json(stage.path / "checkpoint.json", body | change)
        weights = (checkpoint.path / "model.safetensors").read_bytes()
        (stage.path / "model.safetensors").write_bytes(weights)
        stage.finish(["checkpoint.json", "model.safetensors"], {})
    with pytest.raises(DataError, match=match) as caught:
        load_denoiser(tmp_path / "c")
    assert caught.value.exit_code == 3


def test_the_command_line_gives_conditions(
    checkpoint: CheckpointRef, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from flows.cli.app import app

    def sample(*options: str) -> Any:
        fixed = ["--per-class", "2", "--steps", "2", "--recipe", "smoke", "--class", "mass"]
        return CliRunner().invoke(
            app, ["sample", str(checkpoint.path), "--out", str(tmp_path / "c"), *fixed, *options]
        )

    assert sample("--given", "sex").exit_code == 2
    assert sample("--given", "findings=hernia").exit_code == 2
    done = sample("--given", "sex=F", "--given", "findings=mass,miliary")
    assert done.exit_code == 0, done.output
    candidates = Candidates(Path(json.loads(done.stdout.splitlines()[-1])["path"]))
    assert set(candidates.table["condition"]) == {'{"sex":"F","findings":{"mass":1,"miliary":1}}'}
