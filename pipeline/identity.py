"""Keyed pseudonyms: patients and files appear in outputs and logs only as an HMAC.

Another key gives other pseudonyms and nothing else: neither splits nor seeds nor pixels depend on it. So a
key is rotated by naming a new one and ingesting anew; an output that was made with another key is refused.
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
    """Return the pseudonym key: from `PHOSPHOR_KEY`, else the user's key file, made once with mode 0600.

    Raises:
        UsageError: the variable is not hexadecimal or too short, or others can read the key file.
    """
    named = os.environ.get(KEY_VARIABLE)
    if named:
        return _decode(named, KEY_VARIABLE)
    path = key_path()
    if not path.exists():
        _make_key(path)
    if others_may_read(path):
        raise UsageError(
            "other users can read the pseudonym key",
            field=str(path),
            remedy="Run chmod 600 on it, or make a new key.",
        )
    return _decode(path.read_text(encoding="ascii").strip(), str(path))


def existing_key() -> bytes | None:
    """Return what `load_key` returns, or None where it would make a key.

    Raises:
        UsageError: as for `load_key`.
    """
    return load_key() if os.environ.get(KEY_VARIABLE) or key_path().exists() else None


def key_path() -> Path:
    """Return where the key file lies: the user's configuration folder.

    Raises:
        UsageError: the user has no home folder.
    """
    from platformdirs import user_config_path

    return of_the_user(user_config_path, f"give the key in {KEY_VARIABLE}") / "pseudonym.key"


class Pseudonyms:
    """Turns identifying strings into pseudonyms with HMAC-SHA256 (RFC 2104), 64 bits shown as hex.

    The kind of string is part of the message, so a path and a patient id that are spelled alike get
    different pseudonyms. Without the key neither can be tested against a guess.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def patient(self, patient_id: str) -> str:
        """Return the pseudonym of a patient id, `p-` and 16 hex digits."""
        return "p-" + self._tag("patient", patient_id)

    def scan(self, path: str) -> str:
        """Return the pseudonym of a source path or row name, `s-` and 16 hex digits."""
        return "s-" + self._tag("scan", path)

    def look(self, text: str) -> str:
        """Return the pseudonym of what a patient id looks like, 16 hex digits."""
        return self._tag("look", text)

    def _tag(self, kind: str, text: str) -> str:
        message = kind.encode() + b"\0" + text.encode("utf-8", "surrogatepass")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:16]


def _make_key(path: Path) -> None:
    """Make the key file, unless another process makes it first: a link never replaces what is there.

    The file appears whole, as it is written aside and then linked to its name.
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
            f"the pseudonym key must be at least {2 * KEY_BYTES} hexadecimal digits",
            field=field,
            remedy='Make one with: python -c "import secrets; print(secrets.token_hex(32))".',
        )
    return key
