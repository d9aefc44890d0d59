"""Reads DICOM files: frames in display values, and the allow-listed attributes of the header."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.scan_attributes import SCAN_ATTRIBUTES
from pipeline.sources.base import BEYOND_BITS, DicomOptions, Scan, ScanTask
from pipeline.sources.dicom.bits import Stored
from pipeline.sources.dicom.display import Shown, chain_of, show
from pipeline.sources.dicom.frames import frame_values
from pipeline.sources.dicom.header import BIG_ENDIAN, Header, Values
from pipeline.sources.dicom.layout import GREY, chosen_frames, layout_of
from pipeline.sources.dicom.parse import parse
from pipeline.sources.dicom.pixels import decoded_frames
from pipeline.sources.dicom.shutter import empty_pixels, shutter_of

_MODALITIES = {"CR", "DX", "MG", "RF", "XA", "RG", "CT", "MR", "US", "PX", "IO", "OT", "NM", "PT", "SC"}


def read(task: ScanTask, data: bytes) -> Iterator[Scan]:
    """Yield the frames of a DICOM file that the manifest selects, decoded one at a time.

    The display steps follow PS3.3 C.11 and PS3.4 N.2: Modality LUT or rescale, VOI LUT or window,
    Presentation LUT, then inversion for MONOCHROME1 or an INVERSE presentation shape. Pixels in padding or
    outside the display shutter get the darkest value of the image. Overlays are not drawn.

    Args:
        task: the scan and how to read it.
        data: the file's bytes.

    Raises:
        ScanRefusedError: the file is not DICOM, holds no image, is too large or corrupt, has colours or
            several frames that the manifest does not accept, or no installed decoder reads its compression.
    """
    rule, options = task.rule, task.rule.read_with(DicomOptions)
    digest = hashlib.sha256(data).hexdigest()
    header = parse(data, rule.patient_tag, headless=options.headless)
    about = _scan_fields(header.values, task)
    for index, shown, is_colour in displayed(header, options):
        spacing, aspect = _spacing(frame_values(header, index))
        yield Scan(
            pixels=shown.pixels,
            value_range=(shown.black, shown.white) if is_colour else None,
            sha256=digest,
            spacing_mm=spacing,
            pixel_aspect=aspect * task.pixel_aspect,
            frame=index + 1 if options.frames == "each" else None,
            flags=(BEYOND_BITS,) if shown.exceeds_bits else (),
            **about,
        )


def read_patient(task: ScanTask, data: bytes) -> str | None:
    """Return the value of the manifest's patient tag, or None if it is absent or empty.

    Raises:
        ScanRefusedError: the file is not a readable DICOM file.
    """
    tag, options = task.rule.patient_tag, task.rule.read_with(DicomOptions)
    return _patient(parse(data, tag, headless=options.headless).values, tag) or None


def displayed(header: Header, options: DicomOptions) -> Iterator[tuple[int, Shown, bool]]:
    """Yield (index from 0, frame in display values, whether it was in colour) for each chosen frame.

    Raises:
        ScanRefusedError: as for `read`.
    """
    layout = layout_of(header)
    indices = chosen_frames(layout, options.frames)
    decoded = decoded_frames(header, layout, indices)
    for index, (stored, photometric, exceeds_bits) in zip(indices, decoded, strict=True):
        values = frame_values(header, index)
        if is_grey := layout.photometric in GREY:
            chain = chain_of(values, options.window, signed=layout.signed, little=header.syntax != BIG_ENDIAN)
            empty = empty_pixels(stored, values, signed=layout.signed, pixel_aspect=_spacing(values)[1])
            shown = show(stored, chain, empty)
        else:
            shown = _grey(stored, photometric, header, values, options)
        yield index, shown._replace(exceeds_bits=exceeds_bits), not is_grey


def _grey(stored: Stored, photometric: str, header: Header, values: Values, options: DicomOptions) -> Shown:
    from pipeline.sources.dicom.colour import grey_of

    colourful = options.colour == "grey"
    pixels, top = grey_of(stored, photometric, layout_of(header), header, colourful=colourful)
    outside = shutter_of(pixels.shape, values, _spacing(values)[1])
    return Shown(pixels if outside is None else np.where(outside, pixels.dtype.type(0), pixels), 0.0, top)


def _patient(values: Values, keyword: str) -> str:
    value = values.get(keyword, "")
    return "\\".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _scan_fields(values: Values, task: ScanTask) -> dict[str, Any]:
    """Return the fields of `Scan` that all frames of a file share."""
    modality = str(values.get("Modality", "")).upper()
    fields: dict[str, Any] = {
        "source_format": f"dicom {modality}" if modality in _MODALITIES else "dicom",
        "attributes": tuple(
            known or attribute.from_header(str(values.get(attribute.keyword, "")))
            for known, attribute in zip(task.attributes, SCAN_ATTRIBUTES.values(), strict=True)
        ),
    }
    if task.rule.patient_tag:
        fields["patient"] = _patient(values, task.rule.patient_tag)
    return fields


def _spacing(values: Values) -> tuple[float | None, float]:
    """Return the row spacing in mm and the pixel aspect (width over height)."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        pair = values.get(keyword, ())
        if len(pair) == 2 and 0 < pair[0] < 100 and 0.1 < pair[1] / pair[0] < 10:
            return float(pair[0]), float(pair[1] / pair[0])
    ratio = values.get("PixelAspectRatio", ())
    # The numbers are integers of any length, whose quotient may overflow a float.
    if len(ratio) == 2 and 0 < ratio[0] < 2**31 and 0 < ratio[1] < 2**31 and 0.1 < ratio[1] / ratio[0] < 10:
        return None, ratio[1] / ratio[0]
    return None, 1.0
