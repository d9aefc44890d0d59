"""Croissant 1.0 description of a release (JSON-LD), with which dataset tools find and read its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.release.conditions import NO_CONDITIONS, ConditionColumns
from pipeline.release.formats import FORMATS, PNG, ImageFormat
from pipeline.release.layout import CSV_NAME

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The JSON-LD context that the Croissant 1.0 specification prescribes."""

_TYPES = {
    "label": "sc:Integer",
    "synthetic": "sc:Boolean",
    "seed": "sc:Integer",
    "num_steps": "sc:Integer",
    "guidance_scale": "sc:Float",
    "width": "sc:Integer",
    "height": "sc:Integer",
    "format_version": "sc:Integer",
}

_MEANINGS = {
    "sample_id": "Id of the image: class and index.",
    "file_name": "Name of the image file, without its folder.",
    "class": "Class the image was generated for.",
    "label": "Label of the class: its index among the sorted names of all classes.",
    "synthetic": "True: the image is generated.",
    "seed": "Seed of this image.",
    "checkpoint_digest": "sha256 of the generator's checkpoint.",
    "sampler": "Sampler.",
    "num_steps": "Sampler steps.",
    "guidance_scale": "Scale of classifier-free guidance.",
    "width": "Width in pixels.",
    "height": "Height in pixels.",
    "format_version": "Version of this table's layout.",
}


def croissant(
    csv_sha256: str,
    *,
    name: str,
    description: str,
    date_published: str,
    version: str,
    license_text: str,
    citation: str,
    filled_columns: tuple[str, ...],
    conditions: ConditionColumns = NO_CONDITIONS,
    formats: Sequence[ImageFormat] = (FORMATS[PNG],),
) -> dict[str, Any]:
    """Return the body of `croissant.json`.

    Args:
        csv_sha256: sha256 of `metadata.csv`.
        name: name of the dataset.
        description: description of the dataset.
        date_published: ISO 8601 date.
        version: semantic version of the dataset's layout.
        license_text: licence from the manifest of the real scans.
        citation: citation of the dataset.
        filled_columns: columns with a value in every row; the others are omitted because the format has no
            empty cell.
        conditions: columns of the conditions that were requested besides the class.
        formats: formats in which the release holds its images.
    """
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": name,
        "description": description,
        "license": license_text,
        "citeAs": citation,
        "creator": {"@type": "sc:Organization", "name": "phosphor"},
        "datePublished": date_published,
        "version": version,
        "isLiveDataset": False,
        "keywords": ["synthetic", "X-ray"],
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": CSV_NAME,
                "name": CSV_NAME,
                "description": "One row per image.",
                "contentUrl": CSV_NAME,
                "encodingFormat": "text/csv",
                "sha256": csv_sha256,
            },
            *(
                {
                    "@type": "cr:FileSet",
                    "@id": found.label,
                    "name": found.label,
                    "description": found.description,
                    "encodingFormat": found.media_type,
                    "includes": found.pattern,
                }
                for found in formats
            ),
        ],
        "recordSet": [_record_set(filled_columns, conditions)],
    }


def _record_set(columns: tuple[str, ...], conditions: ConditionColumns) -> dict[str, Any]:
    types = _TYPES | dict.fromkeys(conditions.findings, "sc:Integer")
    meanings = _MEANINGS | conditions.meanings
    fields: list[dict[str, Any]] = [
        {
            "@type": "cr:Field",
            "@id": f"images/{column}",
            "name": column,
            "description": meanings[column],
            "dataType": types.get(column, "sc:Text"),
            "source": {"fileObject": {"@id": CSV_NAME}, "extract": {"column": column}},
        }
        for column in columns
    ]
    for field in fields:
        if field["name"] == "file_name":  # joins a row to its image; names are unique across classes
            field["source"]["transform"] = {"regex": "^(?:.*/)?([^/]+)$"}
            field["references"] = {
                "fileSet": {"@id": FORMATS[PNG].label},
                "extract": {"fileProperty": "filename"},
            }
    image = {
        "@type": "cr:Field",
        "@id": "images/image",
        "name": "image",
        "description": "The image itself.",
        "dataType": "sc:ImageObject",
        "source": {"fileSet": {"@id": FORMATS[PNG].label}, "extract": {"fileProperty": "content"}},
    }
    return {
        "@type": "cr:RecordSet",
        "@id": "images",
        "name": "images",
        "description": "One record per image, with how it was generated.",
        "key": {"@id": "images/sample_id"},
        "field": [*fields, image],
    }
