"""The plain walk finds what pydicom finds, in every file at hand, and leaves to pydicom what is unusual."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from pipeline.errors import ScanRefusedError
from pipeline.phantom import write_phantom_cohort
from pipeline.phantom.settings import PhantomSettings
from pipeline.sources.dicom.header import WANTED, Header
from pipeline.sources.dicom.parse import plain_header
from pipeline.sources.dicom.tolerant import parse_with_pydicom
from pipeline.sources.dicom.walk import UnusualError
from tests.pipeline.sources.dicom.dicoms import header, written

INSIDE_PYDICOM = Path(pydicom.__file__).parent / "data"


def content(found: Header) -> tuple[Any, ...]:
    pixels = bytes(found.pixels[found.start : found.start + found.length])
    end = 0
    while pixels[end : end + 4] == b"\xfe\xff\x00\xe0":  # Fragments, without the delimiter and what follows.
        end += 8 + int.from_bytes(pixels[end + 4 : end + 8], "little")
    pixels = pixels[: end or None]
    return found.values, found.syntax, found.storage, found.keyword, pixels


def compare(paths: Iterable[Path]) -> tuple[int, int]:
    """Return how many files were read plainly and how many were not; all of the former agree."""
    plainly = left = 0
    for path in paths:
        data = path.read_bytes()
        try:
            plain = plain_header(data, "PatientID")
        except (UnusualError, ScanRefusedError):
            left += 1
            continue
        plainly += 1
        assert content(plain) == content(parse_with_pydicom(data, "PatientID", headless=True)), path.name
    return plainly, left


def test_the_list_names_the_attributes_of_the_dictionary() -> None:
    for tag, (keyword, vr) in WANTED.items():
        assert keyword_for_tag(tag) == keyword
        assert dictionary_VR(tag) == vr


def test_the_walk_agrees_with_pydicom_on_every_file_inside_pydicom() -> None:
    plainly, _ = compare(path for path in sorted(INSIDE_PYDICOM.rglob("*")) if path.is_file())
    assert plainly > 100


def test_the_walk_agrees_with_pydicom_on_every_real_file(data_root: Path) -> None:
    folders = ("dicom_transfer_syntaxes", "dicom_xray")
    plainly, left = compare(path for name in folders for path in sorted((data_root / name).iterdir()))
    assert plainly >= 20
    assert left <= 5


def test_the_walk_alone_reads_a_phantom_cohort(tmp_path: Path) -> None:
    write_phantom_cohort(tmp_path, PhantomSettings(num_patients=12, image_size=64))
    files = [path for path in (tmp_path / "dicom").rglob("*") if path.is_file()]
    plainly, left = compare(files)
    assert plainly == len(files) - left > 10


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("delimited", [False, True])
def test_nested_data_sets_are_stepped_over(syntax: Any, delimited: bool) -> None:
    inner = Dataset()
    inner.Rows, inner.PatientID = 7, "INNER"
    outer = Dataset()
    outer.ReferencedImageSequence = [inner, inner]
    made = header(SourceImageSequence=[outer, outer])
    for item in (made["SourceImageSequence"], outer["ReferencedImageSequence"]):
        item.is_undefined_length = delimited
        for data_set in item.value:
            data_set.is_undefined_length_sequence_item = delimited
    if syntax is not None:
        made.file_meta.TransferSyntaxUID = syntax
    data = written(made)
    assert (b"\xfe\xff\xdd\xe0" in data) == (delimited and syntax != DeflatedExplicitVRLittleEndian)
    plain = plain_header(data, "PatientID")
    assert plain.values["PatientID"] == "MRN-7"
    assert plain.values["Rows"] == (4,)
    assert content(plain) == content(parse_with_pydicom(data, "PatientID", headless=False))


@pytest.mark.parametrize(
    "changes",
    [
        {"PatientID": "Ré"},
        {"VOILUTSequence": [Dataset()]},
        {"WindowCenter": "x"},
        {"file_meta": None},
    ],
    ids=["text", "sequence", "number", "meta"],
)
def test_what_is_unusual_is_left_to_pydicom(changes: dict[str, Any]) -> None:
    made = header(SpecificCharacterSet="ISO_IR 192")
    if changes.get("file_meta", "") is None:
        data = b"\0" * 128 + b"DICM" + written(made)[400:]
    elif changes.get("WindowCenter"):
        made.WindowCenter = 7
        data = written(made).replace(b"DS\x04\x007.0 ", b"DS\x04\x007.x ")
    else:
        for name, value in changes.items():
            setattr(made, name, value)
        data = written(made)
    with pytest.raises(UnusualError):
        plain_header(data, "PatientID")


@settings(max_examples=300)
@given(st.data())
def test_whatever_bytes_the_walk_accepts_it_ends_without_another_error(data: st.DataObject) -> None:
    good = written(header(ImagerPixelSpacing=[0.2, 0.1]))
    place = data.draw(st.integers(132, len(good) - 60))
    bad = good[:place] + data.draw(st.binary(min_size=1, max_size=6)) + good[place + 3 :]
    with contextlib.suppress(UnusualError, ScanRefusedError):
        plain_header(bad, "PatientID")
