"""Croissant 1.0 description of a release (JSON-LD), so that dataset tools can find and read its rows."""

from __future__ import annotations

from typing import Any

from pipeline.release.conditions import NO_CONDITIONS, ConditionColumns
from pipeline.release.layout import CSV_NAME, IMAGE_FOLDER

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
"""The context that the Croissant 1.0 specification prescribes (its section on the JSON-LD context)."""

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
    "label": "Number of the class: its position among the sorted names of all classes.",
    "synthetic": "True: the image is generated.",
    "seed": "Seed of this image.",
    "checkpoint_digest": "sha256 of the generator's checkpoint.",
    "sampler": "Sampler.",
    "num_steps": "Sampler steps.",
    "guidance_scale": "Strength of classifier-free guidance.",
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
) -> dict[str, Any]:
    """Return the body of `croissant.json`.

    Args:
        csv_sha256: sha256 of `metadata.csv`.
        name, description: of the dataset.
        date_published: ISO 8601 date.
        version: semantic version of the dataset's layout.
        license_text: licence, as the manifest of the real scans gives it.
        citation: how to cite it.
        filled_columns: columns that hold a value in every row; the others are left out, since the format
            has no empty cell.
        conditions: the columns of what the images were asked to show beside their class.
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
                "description": "One row an image.",
                "contentUrl": CSV_NAME,
                "encodingFormat": "text/csv",
                "sha256": csv_sha256,
            },
            {
                "@type": "cr:FileSet",
                "@id": "image-files",
                "name": "image-files",
                "description": "Greyscale PNG, one folder a class.",
                "encodingFormat": "image/png",
                "includes": f"{IMAGE_FOLDER}/*/*.png",
            },
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
        if field["name"] == "file_name":  # joins a row with its image; names are unique across classes
            field["source"]["transform"] = {"regex": "^(?:.*/)?([^/]+)$"}
            field["references"] = {"fileSet": {"@id": "image-files"}, "extract": {"fileProperty": "filename"}}
    image = {
        "@type": "cr:Field",
        "@id": "images/image",
        "name": "image",
        "description": "The image itself.",
        "dataType": "sc:ImageObject",
        "source": {"fileSet": {"@id": "image-files"}, "extract": {"fileProperty": "content"}},
    }
    return {
        "@type": "cr:RecordSet",
        "@id": "images",
        "name": "images",
        "description": "One record an image, with what made it.",
        "key": {"@id": "images/sample_id"},
        "field": [*fields, image],
    }
