"""Damage to DICOM files: elements, lengths, nesting, tables, fragments, codestreams."""

from __future__ import annotations

import io
import random
import struct
import warnings
from collections.abc import Callable

import pydicom
from pydicom import config
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from tests.pipeline.sources.fuzzing.mutations import LENGTHS, Mutation

_VRS = (
    b"AE AS AT CS DA DS DT FL FD IS LO LT OB OD OF OL "
    b"OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV XX"
).split()
_SMALL = (0, 1, 2, 3, 4, 7, 8, 12, 15, 16, 17, 24, 31, 32, 64, 65_535)
_DECIMALS = (
    "0", "-0", "1", "-1", "0.5", "nan", "inf", "-inf", "1e308", "-1e308", "1e-320",
    "", "x", "1\\2\\3", "9" * 400, " ", "4096",
)  # fmt: skip
_WHOLE = (
    "0",
    "-1",
    "1",
    "2",
    "3",
    "2147483647",
    "-2147483648",
    "9" * 30,
    "9" * 400,
    "9" * 5000,
    "1e3",
    "",
    "x",
    "1\\2",
    "100000",
)
_PAIRS = ("0\\0", "1\\1", "nan\\1", "inf\\inf", "1e-300\\1e300", "9\\1", "-1\\1", "1", "", "1\\2\\3", "x\\y")
_COLOURS = (
    "MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT",
    "PALETTE COLOR", "CMYK", "", "\xb2",
)  # fmt: skip
_EDITS: dict[int, tuple[str, tuple[object, ...]]] = {
    0x00280010: ("US", (*_SMALL, 10_000, 8_000)),
    0x00280011: ("US", (*_SMALL, 10_000, 8_000)),
    0x00280002: ("US", _SMALL),
    0x00280006: ("US", _SMALL),
    0x00280100: ("US", _SMALL),
    0x00280101: ("US", _SMALL),
    0x00280102: ("US", _SMALL),
    0x00280103: ("US", _SMALL),
    0x00280008: ("IS", _WHOLE),
    0x00280004: ("CS", _COLOURS),
    0x00281050: ("DS", _DECIMALS),
    0x00281051: ("DS", _DECIMALS),
    0x00281052: ("DS", _DECIMALS),
    0x00281053: ("DS", _DECIMALS),
    0x00281056: ("CS", ("SIGMOID", "LINEAR_EXACT", "LINEAR", "\xff")),
    0x00280120: ("US", (*_SMALL, 2048)),
    0x00280121: ("US", (*_SMALL, 100)),
    0x00280030: ("DS", _PAIRS),
    0x00181164: ("DS", _PAIRS),
    0x00280034: ("IS", (*_PAIRS, "9" * 400 + "\\1", "1\\" + "9" * 400)),
    0x00101010: ("AS", ("047Y", "\xb2\xb2\xb2Y", "999D", "Y", "-01Y", "   Y", "047")),
    0x00100040: ("CS", ("F", "\xff", "", "OTHER")),
    0x00100020: ("LO", ("", "\\\\", "x" * 5000, "\xfe\xff")),
    0x00185101: ("CS", ("PA", "\xfe", "")),
    0x20500020: ("CS", ("INVERSE", "IDENTITY", "x")),
    0x00181600: ("CS", ("RECTANGULAR", "CIRCULAR", "POLYGONAL", "RECTANGULAR\\CIRCULAR\\POLYGONAL")),
    0x00181602: ("IS", _WHOLE),
    0x00181604: ("IS", _WHOLE),
    0x00181606: ("IS", _WHOLE),
    0x00181608: ("IS", _WHOLE),
    0x00181610: ("IS", _PAIRS),
    0x00181612: ("IS", _WHOLE),
    0x00181620: ("IS", (*_PAIRS,
                        "1\\1\\1\\5\\5\\5", "\\".join(["7"] * 9000), "-99999\\99999\\5\\5\\99999\\0")),
    0x00080005: ("CS", ("ISO_IR 192", "ISO 2022 IR 87", "\\ISO 2022 IR 149", "none", "\xff")),
}  # fmt: skip
_LAYOUT = tuple(tag for tag in _EDITS if tag >> 16 == 0x28 and tag & 0xFFFF < 0x104 and tag != 0x00280030)
_SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5",
    *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91, 92, 100, 201, 202, 203)),
    "1.2.3", "", "x" * 60,
)  # fmt: skip


Edit = Callable[[random.Random, Dataset], bytes | None]
"""Changes a data set in place, or returns the bytes of the file that is wanted."""


def _edited(rng: random.Random, data: bytes, edit: Edit) -> bytes:
    """Return a file with its data set changed, or a few bytes overwritten if pydicom cannot write it."""
    settings = config.settings
    earlier = settings.writing_validation_mode, settings.reading_validation_mode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings.writing_validation_mode = settings.reading_validation_mode = config.IGNORE
        try:
            dataset = pydicom.dcmread(io.BytesIO(data), force=True)
            done = edit(rng, dataset)
            return _written(dataset) if done is None else done
        # pydicom raises many kinds on what it cannot take apart or put together.
        except Exception:
            return _overwritten(rng, data)
        finally:
            settings.writing_validation_mode, settings.reading_validation_mode = earlier


def _written(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=False)
    return buffer.getvalue()


def _overwritten(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(max(1, len(data)))
    return data[:at] + rng.randbytes(4) + data[at + 4 :]


def _set_any(rng: random.Random, dataset: Dataset, tag: int) -> None:
    """Set an element to one of its hostile values, unchecked."""
    vr, values = _EDITS[tag]
    value = rng.choice(values)
    implicit, little = dataset.original_encoding
    if isinstance(value, int):
        packed = struct.pack("<H" if little is not False else ">H", value)
    else:
        packed = str(value).encode("latin-1")
        packed += b" " * (len(packed) % 2)
    raw = RawDataElement(Tag(tag), vr, len(packed), packed, 0, bool(implicit), little is not False)
    dataset._dict[Tag(tag)] = raw


def edit_values(rng: random.Random, data: bytes) -> bytes:
    """Set some of the attributes that the reader takes to hostile values."""

    def edit(rng: random.Random, dataset: Dataset) -> None:
        for _ in range(rng.choice((1, 1, 2, 3, 6))):
            _set_any(rng, dataset, rng.choice(list(_EDITS)))

    return _edited(rng, data, edit)


def edit_layout(rng: random.Random, data: bytes) -> bytes:
    """Change the image pixel module alone."""

    def edit(rng: random.Random, dataset: Dataset) -> None:
        for _ in range(rng.choice((1, 2, 3))):
            _set_any(rng, dataset, rng.choice(_LAYOUT))

    return _edited(rng, data, edit)


def edit_tables(rng: random.Random, data: bytes) -> bytes:
    """Add or change lookup tables: descriptors and data that contradict each other."""

    def edit(rng: random.Random, dataset: Dataset) -> None:
        def descriptor() -> list[int]:
            return [
                rng.choice((0, 1, 2, 256, 4096, 65_535)),
                rng.choice((0, 1, 100, 32_768, 65_535)),
                rng.choice((0, 7, 8, 12, 16, 17, 65_535)),
            ][: rng.choice((1, 2, 3, 3, 3, 3))]

        def content() -> bytes:
            return rng.randbytes(2 * rng.choice((0, 1, 128, 256, 4096, 32_768)))

        if rng.random() < 0.4:
            dataset.PhotometricInterpretation = "PALETTE COLOR"
            for name in ("Red", "Green", "Blue")[: rng.choice((1, 3, 3, 3))]:
                dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", descriptor())
                kind = rng.choice(("", "", "Segmented"))
                setattr(dataset, f"{kind}{name}PaletteColorLookupTableData", content())
            return
        item = Dataset()
        item.add_new("LUTDescriptor", "US", descriptor())
        item.add_new("LUTData", rng.choice(("OW", "US", "UN")), content())
        for name in rng.sample(
            ("ModalityLUTSequence", "VOILUTSequence", "PresentationLUTSequence"), rng.randint(1, 3)
        ):
            setattr(dataset, name, Sequence([item] * rng.choice((0, 1, 2))))

    return _edited(rng, data, edit)


def edit_groups(rng: random.Random, data: bytes) -> bytes:
    """Add functional groups whose values are absurd."""

    def edit(rng: random.Random, dataset: Dataset) -> None:
        group = Dataset()
        for name, tags in (
            ("PixelMeasuresSequence", (0x00280030,)),
            ("FrameVOILUTSequence", (0x00281050, 0x00281051, 0x00281056)),
            ("PixelValueTransformationSequence", (0x00281052, 0x00281053)),
            ("FrameDisplayShutterSequence", (0x00181600, 0x00181610, 0x00181612, 0x00181620)),
        ):
            item = Dataset()
            for tag in tags:
                _set_any(rng, item, tag)
            setattr(group, name, Sequence([item] * rng.choice((0, 1, 1, 1, 2))))
        dataset.SharedFunctionalGroupsSequence = Sequence([group])
        if rng.random() < 0.5:
            dataset.PerFrameFunctionalGroupsSequence = Sequence([group] * rng.choice((1, 3)))

    return _edited(rng, data, edit)


def swap_syntax(rng: random.Random, data: bytes) -> bytes:
    """Name another transfer syntax than the one that was written."""

    def edit(rng: random.Random, dataset: Dataset) -> bytes:
        named = str(dataset.file_meta.TransferSyntaxUID)
        return _written(dataset).replace(syntax_element(named), syntax_element(rng.choice(_SYNTAXES)), 1)

    return _edited(rng, data, edit)


def syntax_element(uid: str) -> bytes:
    value = uid.encode() + b"\0" * (len(uid) % 2)
    return b"\x02\x00\x10\x00UI" + struct.pack("<H", len(value)) + value


def _elements(data: bytes) -> list[int]:
    """Return offsets that look like elements of an explicit little-endian data set, at any depth."""
    known = set(_VRS[:-1])
    return [
        at
        for at in range(132, min(len(data) - 8, 6000), 2)
        if data[at + 4 : at + 6] in known and data[at + 1] in (0, 0x20, 0x50, 0x52, 0x7F)
    ]


def swap_vr(rng: random.Random, data: bytes) -> bytes:
    places = _elements(data)
    if not places:
        return _overwritten(rng, data)
    at = rng.choice(places)
    return data[: at + 4] + rng.choice(_VRS) + data[at + 6 :]


def swap_tags(rng: random.Random, data: bytes) -> bytes:
    places = _elements(data)
    if len(places) < 2:
        return _overwritten(rng, data)
    first, second = sorted(rng.sample(places, 2))
    damaged = bytearray(data)
    damaged[first : first + 4], damaged[second : second + 4] = (
        data[second : second + 4],
        data[first : first + 4],
    )
    return bytes(damaged)


def edit_length(rng: random.Random, data: bytes) -> bytes:
    places = _elements(data)
    if not places:
        return _overwritten(rng, data)
    at = rng.choice(places)
    if data[at + 4 : at + 6] in {b"OB", b"OW", b"SQ", b"UN", b"UT", b"OV"}:
        return data[: at + 8] + struct.pack("<I", rng.choice(LENGTHS)) + data[at + 12 :]
    return data[: at + 6] + struct.pack("<H", rng.choice(LENGTHS) & 0xFFFF) + data[at + 8 :]


def nest(rng: random.Random, data: bytes) -> bytes:
    """Put sequences of depth 5,000 before the first element of the data set."""
    at = data.find(b"\x08\x00\x05\x00", 132)
    at = data.find(b"\x08\x00", 140) if at < 0 else at
    if at < 0:
        return _overwritten(rng, data)
    depth = rng.choice((33, 5_000, 5_000))
    explicit = rng.random() < 0.7
    tag = rng.choice((b"\x08\x00\x01\x00", b"\x28\x00\x00\x30", b"\x00\x52\x29\x92", b"\x08\x00\x10\x11"))
    opening = tag + (b"SQ\0\0" if explicit else b"") + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4
    closing = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return data[:at] + opening * depth + closing * rng.choice((0, depth)) + data[at:]


def _pixels(data: bytes) -> int:
    """Return the offset of encapsulated pixel data: of the first item's tag, or -1."""
    found = data.rfind(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff")
    return -1 if found < 0 else found + 12


def edit_fragments(rng: random.Random, data: bytes) -> bytes:
    """Change the offset table, lengths of fragments, their number, or the end of the sequence."""
    at = _pixels(data)
    if at < 0:
        return edit_length(rng, data)
    (table,) = struct.unpack_from("<I", data, at + 4)
    after = at + 8 + table
    how = rng.randrange(6)
    if how == 0:
        offsets = [rng.choice((0, 1, 8, *LENGTHS)) for _ in range(rng.choice((1, 2, 5, 1000)))]
        packed = struct.pack(f"<{len(offsets)}I", *offsets)
        return data[: at + 4] + struct.pack("<I", len(packed)) + packed + data[after:]
    if how == 1:
        return data[: after + 4] + struct.pack("<I", rng.choice(LENGTHS)) + data[after + 8 :]
    if how == 2:
        empty = b"\xfe\xff\x00\xe0\0\0\0\0"
        return data[:after] + empty * rng.choice((1, 3_000, 30_000, 210_000)) + data[after:]
    if how == 3:
        return data[: len(data) - 8] + rng.choice((b"", b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xff" * 8))
    if how == 4:
        return data[: at + 4] + struct.pack("<I", rng.choice(LENGTHS)) + data[at + 8 :]
    counts = [struct.pack("<Q", rng.choice((0, 8, *LENGTHS, 2**63))) * rng.choice((1, 3)) for _ in "ab"]
    tables = b"".join(
        b"\xe0\x7f" + number + b"OV\0\0" + struct.pack("<I", len(count)) + count
        for number, count in zip((b"\x01\x00", b"\x02\x00"), counts, strict=True)
    )
    return data[: at - 12] + tables + data[at - 12 :]


def edit_codestream(rng: random.Random, data: bytes) -> bytes:
    """Change bytes of a compressed frame only; its headers come more often."""
    at = _pixels(data)
    if at < 0:
        return edit_layout(rng, data)
    (table,) = struct.unpack_from("<I", data, at + 4)
    start = at + 16 + table
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
        reach = min(rng.choice((64, 200, len(data))), len(data) - start)
        if reach > 0:
            damaged[start + rng.randrange(reach)] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
    return bytes(damaged)


def agree_on_size(rng: random.Random, data: bytes) -> bytes:
    """Give header and codestream the same other size, so that a decoder is asked for it."""
    return agreed(data, *rng.choice(((1, 1), (64, 1), (1, 60_000), (700, 900), (2_000, 2_000), (65_535, 16))))


def agreed(data: bytes, rows: int, columns: int) -> bytes:
    damaged = bytearray(data)
    for number, size in ((0x10, rows), (0x11, columns)):
        at = data.find(b"\x28\x00" + bytes([number, 0]) + b"US\x02\x00")
        if at >= 0:
            struct.pack_into("<H", damaged, at + 8, size)
    start = max(_pixels(data), 0)
    siz = data.find(b"\xff\x4f\xff\x51", start)
    if siz >= 0:
        struct.pack_into(">4I", damaged, siz + 8, columns, rows, 0, 0)
        struct.pack_into(">4I", damaged, siz + 24, columns, rows, 0, 0)
    for marker in (0xC0, 0xC1, 0xC2, 0xC3, 0xF7):
        at = data.find(b"\xff" + bytes([marker, 0, 11, 8]), start)
        at = data.find(b"\xff" + bytes([marker, 0]), start) if at < 0 else at
        if at >= 0 and siz < 0:
            struct.pack_into(">HH", damaged, at + 5, rows, columns)
            break
    return bytes(damaged)


DICOM: tuple[Mutation, ...] = (
    edit_values, edit_values, edit_layout, edit_tables, edit_groups, swap_syntax,
    swap_vr, swap_tags, edit_length, nest,
    edit_fragments, edit_codestream, edit_codestream, edit_codestream, agree_on_size,
)  # fmt: skip
