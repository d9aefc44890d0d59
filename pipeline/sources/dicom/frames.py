"""Attributes of one frame of an enhanced multi-frame object (PS3.3 C.7.6.16)."""

from __future__ import annotations

from typing import Any

from pipeline.sources.dicom.header import WANTED, Header, Values, quiet

_GROUPS = {
    "PixelMeasuresSequence": ("PixelSpacing",),
    "FramePixelDataPropertiesSequence": ("ImagerPixelSpacing",),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope"),
    "FrameDisplayShutterSequence": tuple(name for name, _ in WANTED.values() if "Shutter" in name),
}
"""Functional groups that affect the display of a frame, and the attributes read from each."""

_TAG_AND_VR = {keyword: (tag, vr) for tag, (keyword, vr) in WANTED.items()}


def frame_values(header: Header, index: int) -> Values:
    """Return the attributes of a frame, counted from 0.

    Its own functional groups override the shared ones, and these override the attributes of the file.

    Raises:
        ScanRefusedError: a value is unreadable.
    """
    shared = header.values.get("SharedFunctionalGroupsSequence") or ()
    own = header.values.get("PerFrameFunctionalGroupsSequence") or ()
    if not shared and not own:
        return header.values
    values = dict(header.values)
    with quiet():
        for group in (*shared[:1], *own[index : index + 1]):
            for name, keywords in _GROUPS.items():
                for item in (group.get(name) or ())[:1]:
                    values.update(_item_values(item, keywords))
    return values


def _item_values(item: Any, keywords: tuple[str, ...]) -> Values:
    from pipeline.sources.dicom.tolerant import plain_value

    found = {}
    for keyword in keywords:
        tag, vr = _TAG_AND_VR[keyword]
        if tag in item:
            value = plain_value(item, tag, keyword, vr)
            if value:
                found[keyword] = value
    return found
