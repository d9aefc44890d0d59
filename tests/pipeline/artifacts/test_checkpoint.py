"""A checkpoint's description is refused where its weights would mean something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.checkpoint import INFO_NAME, SPECTRAL_LAW, read_checkpoint_info
from pipeline.errors import DataError

DESCRIPTION: dict[str, Any] = {
    "format_version": 1,
    "network": {},
    "sigma_data": 0.5,
    "classes": ["a"],
    "image_size": [224, 224],
    "bit_depth": 8,
    "cohort_digest": "c" * 64,
    "cohort_name": "drawn",
    "num_steps": 1,
    "images_seen": 1,
    "seed": 0,
    "precision": "fp32",
    "channels_last": False,
    "num_threads": 1,
    "device": "cpu",
    "libraries": {},
}


def write(folder: Path, **fields: Any) -> Path:
    (folder / INFO_NAME).write_text(json.dumps(DESCRIPTION | fields), encoding="utf-8")
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
