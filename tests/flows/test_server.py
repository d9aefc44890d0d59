"""The temporary Prefect server: its own database, no proxy, and the cause where it does not come up."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START = """
import sys
from pathlib import Path
from flows.server import ServerError, api_server, set_quiet_environment
set_quiet_environment()
try:
    with api_server(Path(sys.argv[1])) as wait_until_ready:
        wait_until_ready()
        from prefect.client.orchestration import get_client
        with get_client(sync_client=True) as client:
            client.hello()
    print("up")
except ServerError as error:
    print(error)
"""
NOBODY = """
import os, pwd, sys
for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "PREFECT_HOME", "PHOSPHOR_KEY"):
    os.environ.pop(name, None)

def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = unknown
"""


def run(program: str, *arguments: str, **environment: str) -> str:
    """Run a program in a process of its own and return the last line that it prints."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("PREFECT_API")}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def another_version(database: Path) -> None:
    """Write a database that a newer Prefect has left."""
    database.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(database) as connection:
        connection.execute("create table alembic_version (version_num varchar(32) not null)")
        connection.execute("insert into alembic_version values ('fedcba987654')")


def test_it_needs_neither_the_user_s_database_nor_a_proxy(tmp_path: Path) -> None:
    home = tmp_path / "home"
    another_version(home / "prefect.db")
    nowhere = "http://127.0.0.1:9"
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), nowhere)
    said = run(START, str(tmp_path / "run"), PREFECT_HOME=str(home), no_proxy="", NO_PROXY="", **proxies)
    assert said == "up"
    folder = tmp_path / "run" / ".prefect-server"
    assert (folder / "prefect.db").is_file()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_its_last_words_are_quoted_where_it_ends(tmp_path: Path) -> None:
    another_version(tmp_path / "run" / ".prefect-server" / "prefect.db")
    said = run(START, str(tmp_path / "run"))
    assert "ended with code 1: " in said and "fedcba987654" in said
    messages = tmp_path / "run" / ".prefect-server" / "messages.txt"
    assert str(messages) in said and stat.S_IMODE(messages.stat().st_mode) == 0o600


def test_the_user_s_own_exceptions_from_a_proxy_stay() -> None:
    program = "import os; from flows.server import set_quiet_environment as settle; "
    program += "settle(); settle(); print(os.environ['no_proxy'])"
    assert run(program, no_proxy="pacs.local,localhost") == "pacs.local,localhost,127.0.0.1,::1"


def test_a_uid_without_a_passwd_entry_and_a_home_is_told_what_to_set() -> None:
    assert run(NOBODY + "import models; import monai.config.deviceconfig as own; print(own.USER)").startswith(
        "uid-"
    )
    program = NOBODY + (
        "from pipeline.errors import UsageError\n"
        "from pipeline.identity import load_key\n"
        "try:\n    load_key()\nexcept UsageError as error:\n    print(error)\n"
    )
    assert "HOME" in run(program) and "PHOSPHOR_KEY" in run(program)
    doctor = NOBODY + "from flows.doctor import _key; print(list(_key())[0])"
    assert "no home folder" in run(doctor)
    log = NOBODY + "from flows.logs import write_failure; print(write_failure(ValueError()).is_file())"
    assert run(log) == "True"
