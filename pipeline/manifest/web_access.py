"""How a DICOMweb server is reached and asked; secrets only by the names of their variables."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from pipeline.errors import ManifestError

REFERENCE = r"^\$\{[A-Za-z_][A-Za-z0-9_]*\}$"
"""What a manifest may say instead of a secret: the name of an environment variable."""


@dataclass(frozen=True, slots=True)
class WebAccess:
    """What all requests of one source share.

    Attributes:
        query: attribute (keyword or tag in hex) and wanted value of each filter, in the manifest's order.
        user: reference to the environment variable of the user's name, such as `${PACS_USER}`, or empty.
        password: reference to that of the password, or empty.
        token: reference to that of a bearer token, or empty.
        ca_file: absolute path of the certificates that a server's certificate must lead to, or empty.
        retry_seconds: how long a request is tried again while the server does not answer.
    """

    query: tuple[tuple[str, str], ...] = ()
    user: str = ""
    password: str = ""
    token: str = ""
    ca_file: str = ""
    retry_seconds: float = 120.0

    def authorization(self) -> str:
        """Return the value of the Authorization header (RFC 7617, RFC 6750), empty if there is none to send.

        Raises:
            ManifestError: a variable is not set, or cannot stand in a header.
        """
        if self.token:
            token = secret(self.token, "token")
            if not re.fullmatch(r"[\x21-\x7e]+", token):
                raise _unusable("token", self.token)
            return f"Bearer {token}"
        if not self.user:
            return ""
        from base64 import b64encode

        user, password = secret(self.user, "user"), secret(self.password, "password")
        if ":" in user:
            raise _unusable("user", self.user)
        return "Basic " + b64encode(f"{user}:{password}".encode()).decode("ascii")


def secret(reference: str, field: str) -> str:
    """Return what an environment variable holds; the value appears in no message.

    Raises:
        ManifestError: it is not set.
    """
    found = os.environ.get(reference[2:-1], "").strip()
    if not found:
        raise ManifestError(
            f"the environment variable {reference[2:-1]} is not set",
            field=f"sources.{field}",
            remedy="Set it to the server's, in the shell that runs the command.",
        )
    return found


def _unusable(field: str, reference: str) -> ManifestError:
    return ManifestError(
        f"the environment variable {reference[2:-1]} does not hold a usable {field}",
        field=f"sources.{field}",
        remedy="Check it for spaces, line breaks and colons.",
    )
