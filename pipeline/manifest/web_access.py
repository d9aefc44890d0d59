"""Access to a DICOMweb server; secrets are given as names of environment variables."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from dataclasses import dataclass

from pipeline.errors import ManifestError

REFERENCE = r"^\$\{[A-Za-z_][A-Za-z0-9_]*\}$"
"""Reference to an environment variable, which a manifest contains instead of a secret."""


@dataclass(frozen=True, slots=True)
class WebAccess:
    """Settings of all requests to the server of one source.

    Attributes:
        query: (keyword or hexadecimal tag, value) of each filter, in the manifest's order.
        user: reference to the variable with the user name, such as `${PACS_USER}`; empty if there is none.
        password: reference to the variable with the password, or empty.
        token: reference to the variable with a bearer token, or empty.
        ca_file: absolute path of the trusted CA certificates (PEM), or empty.
        retry_seconds: duration in seconds for which a failed request is retried.
    """

    query: tuple[tuple[str, str], ...] = ()
    user: str = ""
    password: str = ""
    token: str = ""
    ca_file: str = ""
    retry_seconds: float = 120.0

    def authorization(self) -> str:
        """Return the value of the Authorization header (RFC 7617, RFC 6750), empty without credentials.

        Raises:
            ManifestError: a variable is not set, or its value is not allowed in the header.
        """
        if self.token:
            token = secret(self.token, "token")
            if not re.fullmatch(r"[\x21-\x7e]+", token):
                raise _unusable("token", self.token)
            return f"Bearer {token}"
        if not self.user:
            return ""
        user, password = secret(self.user, "user"), secret(self.password, "password")
        if ":" in user:
            raise _unusable("user", self.user)
        return "Basic " + b64encode(f"{user}:{password}".encode()).decode("ascii")


def secret(reference: str, field: str) -> str:
    """Return the value of a referenced environment variable; no message shows it.

    Raises:
        ManifestError: the variable is not set.
    """
    value = os.environ.get(reference[2:-1], "").strip()
    if not value:
        raise ManifestError(
            f"the environment variable {reference[2:-1]} is not set",
            field=f"sources.{field}",
            remedy="Set it in the shell that runs the command.",
        )
    return value


def _unusable(field: str, reference: str) -> ManifestError:
    return ManifestError(
        f"the environment variable {reference[2:-1]} does not contain a valid {field}",
        field=f"sources.{field}",
        remedy="Remove spaces, line breaks and colons from it.",
    )
