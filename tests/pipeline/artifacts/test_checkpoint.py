"""A checkpoint's description is refused where its weights would mean something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.checkpoint import INFO_NAME, SPECTRAL_LAW, read_checkpoint_info
from pipeline.errors import DataError
from tests.checkpoints import description


def write(folder: Path, **fields: Any) -> Path:
    (folder / INFO_NAME).write_text(json.dumps(description(**fields)), encoding="utf-8")
    return folder


@pytest.mark.parametrize("law", [None, SPECTRAL_LAW - 1, SPECTRAL_LAW + 1])
def test_weights_of_another_law_are_refused(law: int | None, tmp_path: Path) -> None:
    fields = {} if law is None else {"spectral_law": law}
    with pytest.raises(DataError, match=r"another power of each spatial frequency") as caught:
        read_checkpoint_info(write(tmp_path, parametrisation="spectral", **fields))
    assert caught.value.remedy == "Train again."


def test_a_checkpoint_without_a_law_is_read_as_before(tmp_path: Path) -> None:
    assert read_checkpoint_info(write(tmp_path)).parametrisation == "edm"
    found = read_checkpoint_info(write(tmp_path, parametrisation="spectral", spectral_law=SPECTRAL_LAW))
    assert found.spectral_law == SPECTRAL_LAW
