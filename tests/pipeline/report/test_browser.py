"""The report in a real browser: it lays out, decodes every picture, and logs no complaint."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.report import write_report
from pipeline.report.page import CONTENTS
from tests.pipeline.report.runs import Case, write_run

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)

# Fills the title with what the page turned into, which --dump-dom then prints.
PROBE = """<script>
addEventListener("load", () => {
  const pictures = [...document.images];
  const undecoded = pictures.filter(p => !(p.complete && p.naturalWidth > 0)).length;
  const wide = document.documentElement.scrollWidth > innerWidth;
  console.error("seen by the control");
  document.title = `pictures ${pictures.length} undecoded ${undecoded} wide ${wide}`;
});
</script></head>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install -y chromium")
@pytest.mark.parametrize("width", [1280, 480])
def test_the_page_opens_without_an_error(tmp_path: Path, width: int) -> None:
    path = write_report(write_run(tmp_path / "run", Case()))
    said = _open(path, tmp_path, width)
    assert "CONSOLE" not in said.stderr, said.stderr
    for anchor, heading in CONTENTS:
        assert re.search(rf'<h2 id="{anchor}">{heading}</h2>', said.stdout)

    # The page itself forbids scripts; a copy that allows one reports how the browser laid it out.
    probed = path.read_text(encoding="utf-8")
    probed = probed.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'", 1)
    copy = tmp_path / "probed.html"
    copy.write_text(probed.replace("</head>", PROBE, 1), encoding="utf-8")
    said = _open(copy, tmp_path, width)
    assert "seen by the control" in said.stderr, "the browser's complaints do not reach this test"
    assert "<title>pictures 109 undecoded 0 wide false</title>" in said.stdout


def _open(path: Path, scratch: Path, width: int) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-sync",
        "--disable-component-update",
        "--no-first-run",
        "--enable-logging=stderr",
        "--v=0",
        f"--user-data-dir={scratch / 'profile'}",
        f"--window-size={width},2000",
        "--dump-dom",
        path.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
