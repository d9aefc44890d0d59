"""Expansion of the paths that a manifest names."""

from __future__ import annotations

import os
import re
from pathlib import Path

_CHOICE = re.compile(r"(?<!\$)\{([^{}]*,[^{}]*)\}")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def expand_path(text: str, folder: Path) -> tuple[Path, str]:
    """Expand `${NAME}` from the environment and place a relative path below `folder`.

    A value of a variable that is itself relative counts from the working directory, as in a shell. Of choices
    in braces (`{,part 1/}train.csv`) the first that exists is taken, or the first of all if none does.

    Returns:
        The absolute path, and the name of the first variable that is not set (empty if all are).
    """
    if choice := _CHOICE.search(text):
        head, tail = text[: choice.start()], text[choice.end() :]
        found = [expand_path(head + part + tail, folder) for part in choice.group(1).split(",")]
        return next((one for one in found if not one[1] and one[0].exists()), found[0])
    missing = [name for name in _VARIABLE.findall(text) if not os.environ.get(name)]
    if missing:
        return folder / text, missing[0]
    expanded = _VARIABLE.sub(lambda found: os.environ[found.group(1)], text)
    if expanded != text:
        return Path(expanded).expanduser().absolute(), ""
    return (folder / Path(expanded).expanduser()).absolute(), ""
