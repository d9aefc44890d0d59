"""Expansion of environment variables and alternatives in the paths of a manifest."""

from __future__ import annotations

import os
import re
from pathlib import Path

_CHOICE = re.compile(r"(?<!\$)\{([^{}]*,[^{}]*)\}")
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""Reference to an environment variable, `${NAME}`; its group is the name."""


def expand_path(text: str, folder: Path) -> tuple[Path, str]:
    """Expand `${NAME}` from the environment; a relative path starts at `folder`.

    A variable's value that is itself relative starts at the working directory, as in a shell. Of alternatives
    in braces (`{,part 1/}train.csv`), the first that exists is used, or the first if none exists.

    Returns:
        The absolute path, and the name of the first variable that is not set (empty if all are).
    """
    if choice := _CHOICE.search(text):
        head, tail = text[: choice.start()], text[choice.end() :]
        found = [expand_path(head + part + tail, folder) for part in choice.group(1).split(",")]
        return next((one for one in found if not one[1] and one[0].exists()), found[0])
    missing = [name for name in VARIABLE.findall(text) if not os.environ.get(name)]
    if missing:
        return folder / text, missing[0]
    expanded = VARIABLE.sub(lambda found: os.environ[found.group(1)], text)
    if expanded != text:
        return Path(expanded).expanduser().absolute(), ""
    return (folder / Path(expanded).expanduser()).absolute(), ""
