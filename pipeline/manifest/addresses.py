"""Addresses of servers that a manifest names: variables expanded, no secret in them."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from pipeline.errors import ManifestError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def expand_url(text: str, field: str) -> str:
    """Return the address, with `${NAME}` taken from the environment.

    Raises:
        ManifestError: a variable is not set, or what comes out is no plain http or https address. Its value
            is not shown: it may hold a password.
    """
    for name in _VARIABLE.findall(text):
        if not os.environ.get(name):
            raise ManifestError(
                f"the environment variable {name} is not set",
                field=field,
                value=text,
                remedy=f"Set {name} to the server's address, or write the address into the manifest.",
            )
    expanded = _VARIABLE.sub(lambda found: os.environ[found.group(1)], text).strip()
    problem = url_problem(expanded)
    if problem:
        raise ManifestError(
            problem, field=field, remedy="An address looks like https://pacs.example/dicom-web."
        )
    return expanded.rstrip("/")


def url_problem(url: str) -> str:
    """Return why an address cannot be used, or an empty text."""
    if not re.fullmatch(r"https?://[\x21-\x7e]+", url):
        return "an address must start with http:// or https:// and hold no spaces"
    try:
        parts = urlsplit(url)
        named, port = parts.hostname, parts.port
    except ValueError:
        return "not an address"
    if parts.username is not None or parts.password is not None:
        return "an address must not hold a user or password: name variables as user and password"
    if parts.query or parts.fragment or "?" in url or "#" in url:
        return "an address must not hold a query or a fragment"
    return "" if named and port != 0 else "an address must name a host"
