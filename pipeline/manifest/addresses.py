"""Server addresses in manifests: they may contain variables, but no password."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from pipeline.errors import ManifestError
from pipeline.manifest.paths import VARIABLE


def expand_url(text: str, field: str) -> str:
    """Return an address with each `${NAME}` replaced by the value of that environment variable.

    Raises:
        ManifestError: a variable is not set, or the result is not a plain http or https address. The message
            does not show the result, because it may contain a password.
    """
    for name in VARIABLE.findall(text):
        if not os.environ.get(name):
            raise ManifestError(
                f"the environment variable {name} is not set",
                field=field,
                value=text,
                remedy=f"Set {name} to the address of the server, or write the address into the manifest.",
            )
    expanded = VARIABLE.sub(lambda found: os.environ[found.group(1)], text).strip()
    problem = url_problem(expanded)
    if problem:
        raise ManifestError(
            problem, field=field, remedy="Use an address such as https://pacs.example/dicom-web."
        )
    return expanded.rstrip("/")


def url_problem(url: str) -> str:
    """Return what is wrong with an address, or an empty text."""
    if not re.fullmatch(r"https?://[\x21-\x7e]+", url):
        return "an address must start with http:// or https:// and contain no spaces"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "not a valid address"
    if parts.username is not None or parts.password is not None:
        return "an address must not contain a user or password; use the keys `user` and `password`"
    if parts.query or parts.fragment or "?" in url or "#" in url:
        return "an address must not contain a query or a fragment"
    return "" if host and port != 0 else "an address must contain a host"
