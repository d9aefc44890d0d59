"""Keyed pseudonyms: outputs and logs contain only an HMAC of each patient and file.

The key determines the pseudonyms only, not splits, seeds or pixels. To rotate the key, set a new one and
ingest again; outputs made with another key are refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.storage import (
    make_private_directory,
    of_the_user,
    others_may_read,
    storage_errors,
    sync_directory,
)

KEY_BYTES = 32
KEY_VARIABLE = "PHOSPHOR_KEY"
"""Environment variable with the key as at least 64 hexadecimal digits."""


def load_key() -> bytes:
    """Return the pseudonym key from `PHOSPHOR_KEY`, or from the user's key file, created once with mode 0600.

    Raises:
        UsageError: the variable is not hexadecimal or too short, or others can read the key file.
    """
    if text := os.environ.get(KEY_VARIABLE):
        return _decode(text, KEY_VARIABLE)
    path = key_path()
    if not path.exists():
        _create_key(path)
    if others_may_read(path):
        raise UsageError(
            "other users can read the pseudonym key",
            field=str(path),
            remedy="Run chmod 600 on the file, or create a new key.",
        )
    return _decode(path.read_text(encoding="ascii").strip(), str(path))


def existing_key() -> bytes | None:
    """Return the key as `load_key` does, or None if it does not exist yet.

    Raises:
        UsageError: as for `load_key`.
    """
    return load_key() if os.environ.get(KEY_VARIABLE) or key_path().exists() else None


def key_path() -> Path:
    """Return the path of the key file, in the user's configuration folder.

    Raises:
        UsageError: the user has no home folder.
    """
    from platformdirs import user_config_path

    return of_the_user(user_config_path, f"set {KEY_VARIABLE} to the key") / "pseudonym.key"


class Pseudonyms:
    """Pseudonyms of identifying texts: HMAC-SHA256 (RFC 2104), truncated to 64 bits, in hexadecimal.

    The HMAC's message includes the kind of text, so a path and an equal patient id have different pseudonyms.
    Without the key, a guess of the text cannot be tested.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def patient(self, patient_id: str) -> str:
        """Return the pseudonym of a patient id: `p-` and 16 hexadecimal digits."""
        return "p-" + self._tag("patient", patient_id)

    def scan(self, path: str) -> str:
        """Return the pseudonym of a source path or row name: `s-` and 16 hexadecimal digits."""
        return "s-" + self._tag("scan", path)

    def look(self, text: str) -> str:
        """Return the pseudonym of a normalised patient id (`looks_of`): 16 hexadecimal digits."""
        return self._tag("look", text)

    def _tag(self, kind: str, text: str) -> str:
        message = kind.encode() + b"\0" + text.encode("utf-8", "surrogatepass")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:16]


def _create_key(path: Path) -> None:
    """Create the key file, unless another process creates it first.

    The key is written to another file and then linked, so the key file is always complete, and an existing
    one is never replaced.
    """

    make_private_directory(path.parent)
    with storage_errors(path):
        handle, aside = tempfile.mkstemp(prefix=f".{path.stem}-", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="ascii") as stream:
                stream.write(secrets.token_hex(KEY_BYTES))
                stream.flush()
                os.fsync(stream.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        finally:
            Path(aside).unlink(missing_ok=True)
        sync_directory(path.parent)


def _decode(text: str, field: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) < KEY_BYTES:
        raise UsageError(
            f"the pseudonym key must have at least {2 * KEY_BYTES} hexadecimal digits",
            field=field,
            remedy='Create one with: python -c "import secrets; print(secrets.token_hex(32))".',
        )
    return key
