"""Decodes the escapes of text formats: base64, hexadecimal, HTML, URL and JSON escapes."""

from __future__ import annotations

import binascii
import html
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

import numpy as np

from pipeline.residual.search.limits import Part

_BASE64, _HEX = "base64", "hexadecimal"
ENCODED = frozenset({_BASE64, _HEX})
"""Encodings as which any text can be decoded; the result is mostly noise."""

_LONG_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{64,}(?:\r?\n[A-Za-z0-9+/_-]{4,})*")
_SHORTEST_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{10,}")
"""Ten characters contain the inner part of the eight bytes from which a decoded value counts."""

_HEX_RUN = re.compile(rb"[0-9A-Fa-f]{8,}(?:\r?\n[0-9A-Fa-f]{2,})*")
_LONG_RUN = 256
_NEIGHBOURHOOD = 512
_BREAKS = bytes.maketrans(b"-_", b"+/")
_HTML = re.compile(rb"&(?:#[0-9]{1,8}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});?")
_URL = re.compile(rb"%[0-9A-Fa-f]{2}")
_JSON = re.compile(rb'(?:\\u[0-9A-Fa-f]{4})+|\\["\\/]')
_QUOTED_PRINTABLE = re.compile(rb"=[0-9A-F]{2}")

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_SEXTETS = np.zeros(256, dtype=np.uint8)
_SEXTETS[np.frombuffer(_ALPHABET, dtype=np.uint8)] = np.arange(64)
_SEXTETS[np.frombuffer(b"-_", dtype=np.uint8)] = (62, 63)

_PRINTABLE = np.zeros(256, dtype=bool)
_PRINTABLE[[9, 10, 13, *range(32, 127)]] = True
_SHORTEST_TEXT = 6
_TEXT_BLOCK = 256
_MAX_CONTROLS = 6


def unescaped_parts(content: bytes) -> Iterator[Part]:
    """Yield the text in `content` with each kind of escape decoded that occurs in it."""
    data = textual(content)
    yield from _base64_parts(data)
    yield from _hex_parts(data)
    if (near := _near(_HTML, data)) is not None:
        yield Part("HTML escapes", _HTML.sub(_from_html, near))
    if (near := _near(_URL, data)) is not None:
        yield Part("URL escapes", unquote_to_bytes(near))
        if b"+" in near:
            yield Part("URL escapes", unquote_to_bytes(near.replace(b"+", b" ")))
    if (near := _near(_JSON, data)) is not None:
        yield Part("JSON escapes", _JSON.sub(_from_json, near))
    if (near := _near(_QUOTED_PRINTABLE, data)) is not None:
        yield Part("quoted-printable", binascii.a2b_qp(near))


def textual(data: bytes) -> bytes:
    """Return what may be text in `data`; other bytes are replaced by a single zero byte.

    Runs of at least 6 printable ASCII characters are kept, and blocks of 256 bytes with few control
    characters (text in other alphabets). Text is returned unchanged. Noise and most pixels are removed almost
    completely, which keeps the cost of nested escapes low.
    """
    codes = np.frombuffer(data, dtype=np.uint8)
    text = _PRINTABLE[codes]
    if text.all():
        return data
    padded = np.zeros(len(text) + 2, dtype=bool)
    padded[1:-1] = text
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    lengths = edges[1::2] - edges[::2]
    text[text] = np.repeat(lengths >= _SHORTEST_TEXT, lengths)
    controls = ~(_PRINTABLE[codes] | (codes >= 0x80))
    starts = np.arange(0, len(codes), _TEXT_BLOCK)
    readable = np.add.reduceat(controls, starts, dtype=np.int64) <= _MAX_CONTROLS
    text |= np.repeat(readable, np.diff(starts, append=len(codes)))
    kept = np.where(text, codes, np.uint8(0))
    kept = kept[(kept != 0) | np.concatenate(([False], kept[:-1] != 0))]
    return kept.tobytes()


def _near(pattern: re.Pattern[bytes], data: bytes) -> bytes | None:
    """Return the matches of `pattern` with 512 bytes on either side, or None if there is no match.

    A value that is written with an escape is close to it. Including all other bytes would search them again
    on every level.
    """
    spans: list[tuple[int, int]] = []
    for match in pattern.finditer(data):
        start, end = max(match.start() - _NEIGHBOURHOOD, 0), match.end() + _NEIGHBOURHOOD
        if spans and start <= spans[-1][1]:
            start = spans.pop()[0]
        spans.append((start, end))
    return b"\0\0".join(data[start:end] for start, end in spans) if spans else None


def _base64_parts(data: bytes) -> Iterator[Part]:
    """Decode base64 (RFC 4648, both alphabets): long runs separately, as they may be files, and the whole
    buffer.

    A value may start anywhere in a run, and a run anywhere in the data. The whole buffer is therefore decoded
    at all four alignments, with characters outside the alphabet as zero; one of the four is right for any
    run. Line breaks are removed first.
    """
    for match in _LONG_BASE64.finditer(data):
        run = match.group().replace(b"\n", b"").replace(b"\r", b"").translate(_BREAKS)
        if len(run) >= _LONG_RUN:
            body = run[: len(run) - 1] if len(run) % 4 == 1 else run
            yield Part(_BASE64, binascii.a2b_base64(body + b"=" * (-len(body) % 4)))
    joined = data.replace(b"\n", b"").replace(b"\r", b"") + b"\0" * 7
    if _SHORTEST_BASE64.search(joined) is None:
        return
    sextets = _SEXTETS[np.frombuffer(joined, dtype=np.uint8)]
    for offset in range(4):
        count = (len(sextets) - offset) // 4
        first, second, third, fourth = sextets[offset : offset + 4 * count].reshape(count, 4).T
        decoded = (first << 2 | second >> 4, second << 4 | third >> 2, third << 6 | fourth)
        yield Part(_BASE64, np.stack(decoded, axis=1).tobytes())


def _hex_parts(data: bytes) -> Iterator[Part]:
    """Decode runs of hexadecimal digits at both alignments: long runs separately, short runs together."""
    short: list[bytes] = []
    for match in _HEX_RUN.finditer(data):
        run = match.group().replace(b"\n", b"").replace(b"\r", b"")
        for offset in (0, 1):
            decoded = binascii.unhexlify(run[offset : offset + (len(run) - offset) // 2 * 2])
            if len(run) < _LONG_RUN:
                short.append(decoded)
            else:
                yield Part(_HEX, decoded)
    if short:
        yield Part(_HEX, b"\0\0".join(short))


def _from_html(match: re.Match[bytes]) -> bytes:
    return html.unescape(match.group().decode("ascii")).encode("utf-8", "surrogatepass")


def _from_json(match: re.Match[bytes]) -> bytes:
    text = match.group()
    if not text.startswith(b"\\u"):
        return text[1:]
    units = b"".join(binascii.unhexlify(text[i + 2 : i + 6]) for i in range(0, len(text), 6))
    return units.decode("utf-16-be", "surrogatepass").encode("utf-8", "surrogatepass")
