"""Runs a command and ends it, with all that it started, as soon as the process that started this one is gone.

`python supervisor.py COMMAND...` needs the standard library only. It is started as leader of a process group,
with a pipe as its standard input that the other process holds open.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

NOT_STARTED = 126
"""Exit code if the command cannot be started; shells use it too."""


def end_group(leader: int) -> None:
    """End all processes of a group at once; on Windows, a process with those that it started.

    Args:
        leader: process id of the group's leader, which may have ended.
    """
    kill_group = getattr(os, "killpg", None)
    # The group may be empty, or a process in it may belong to another user.
    with contextlib.suppress(OSError):
        if kill_group is not None:
            kill_group(leader, getattr(signal, "SIGKILL", signal.SIGTERM))
        else:
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(leader)], capture_output=True, check=False)


def _end_with_parent() -> None:
    # Read without a buffer: its lock would be held when this process exits.
    while os.read(0, 1):
        pass
    end_group(os.getpid())


def main(command: list[str]) -> int:
    """Run a command; return its exit code, or end by the signal that ended it."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be started: {error.strerror}\n")
        return NOT_STARTED
    threading.Thread(target=_end_with_parent, daemon=True).start()
    code = process.wait()
    if code < 0:
        with contextlib.suppress(OSError):  # the action of SIGKILL cannot be set
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
