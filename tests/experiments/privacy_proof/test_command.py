"""The parts of the proof read one command line, and refuse what none of them knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.experiments.privacy_proof.command import MANIFEST, OUT, called


def test_places_and_options_come_in_any_order() -> None:
    call = called(("draws",), ["size=64", "a.yaml", "draws=7", "out"])
    assert (call.manifest, call.out, call.size, call.number("draws", 50)) == (
        Path("a.yaml"),
        Path("out"),
        64,
        7,
    )
    assert call.recipe(10).sample.per_class == 10
    assert call.recipe().ingest.image_size == 64


def test_what_is_left_out_has_a_default() -> None:
    call = called(("draws",), ["minutes=0.5"])
    assert (call.manifest, call.out, call.number("draws", 50)) == (Path(MANIFEST), Path(OUT), 50)
    assert call.recipe().train.max_minutes == 0.5


@pytest.mark.parametrize("words", [["drawn=3"], ["a", "b", "c"]])
def test_what_no_part_knows_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit, match="unknown"):
        called(("draws",), words)
