"""A hundred megapixels of 16 bits take the file's bytes, about one copy, and blocks of rows."""

from __future__ import annotations

import io
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipeline.sources.dicom.dicoms import header

MEASURE = """
    import io, resource, sys
    import numpy as np
    from pipeline.sources.dicom import source as dicom
    from pipeline.sources.base import ReadRule, ScanTask

    data = open(sys.argv[1], "rb").read()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for scan in dicom.read(ScanTask(ReadRule("dicom", ""), "f"), data):
        print(scan.pixels.shape, scan.pixels.dtype, int(scan.pixels[0, 0]), int(scan.pixels[-1, -1]))
    print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


# A process starts with the peak of the one that it was forked from, so a small one stands in between.
LAUNCH = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"


@pytest.mark.parametrize(
    ("changes", "copies"),
    [
        pytest.param({}, 1.2, id="window"),
        pytest.param({"VOILUTFunction": "SIGMOID"}, 1.3, id="sigmoid", marks=pytest.mark.slow),
        pytest.param({"PixelPaddingValue": 4095}, 1.8, id="padding", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_hundred_megapixels_of_16_bits_take_about_one_copy(
    tmp_path: Path, changes: dict[str, Any], copies: float
) -> None:
    made = header(np.zeros((1, 1), dtype=np.uint16), WindowCenter=2048, WindowWidth=1024, **changes)
    made.PhotometricInterpretation = "MONOCHROME1"
    made.Rows = made.Columns = 10_000
    made.PixelData = np.tile(np.arange(10_000, dtype=np.uint16) % 4096, 10_000).tobytes()
    path = tmp_path / "large.dcm"
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    path.write_bytes(buffer.getbuffer())
    del made, buffer
    run = subprocess.run(
        [sys.executable, "-c", LAUNCH, "-c", textwrap.dedent(MEASURE), str(path)],
        check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    shape, numbers = run.stdout.splitlines()
    before, peak = (int(number) * 1024 for number in numbers.split())
    assert shape.startswith("(10000, 10000) uint16")
    assert before < 2 * 10_000**2 + 2**27
    assert peak <= 2**30
    assert peak - before <= copies * 2 * 10_000**2
