"""Lists the instances of a DICOMweb server as reading tasks, by the same rules as the files of a folder."""

from __future__ import annotations

from pipeline.errors import DataError
from pipeline.manifest import Manifest
from pipeline.manifest.addresses import expand_url
from pipeline.manifest.kinds.dicomweb import DicomWebSource
from pipeline.manifest.web_access import WebAccess
from pipeline.sources.base import Asked, ReadRule, source_prefix
from pipeline.sources.folders import Listing, list_entries
from pipeline.sources.read_rules import dicom_options, patient_tag
from pipeline.sources.stores import open_store


def list_server(manifest: Manifest, source: DicomWebSource, number: int, asked: Asked) -> Listing:
    """List the instances of a source on its server, sorted by name.

    Args:
        manifest: the manifest, for its paths and the kept test split.
        source: the source's rules.
        number: position of the source in the manifest.
        asked: unused.

    Raises:
        ManifestError: an environment variable is not set, a column is missing, or a filter is not a DICOM
            attribute.
        DataError: the server does not answer, or no instance matches.
    """
    at = f"sources.{number}"
    access = WebAccess(
        query=tuple(source.query.items()),
        user=source.user or "",
        password=source.password or "",
        token=source.token or "",
        ca_file=str(manifest.resolve(source.ca_file, f"{at}.ca_file")) if source.ca_file else "",
        retry_seconds=source.retry_seconds,
    )
    rule = ReadRule(
        "dicom",
        expand_url(source.url, f"{at}.url"),
        patient_tag=patient_tag(source, at),
        prefix=source_prefix(number),
        store="dicomweb",
        web=access,
        options=dicom_options(source),
    )
    listing = list_entries(manifest, source, rule, number, open_store(rule).entries())
    if not listing.tasks:
        raise DataError(
            "no instance on the server matches",
            field=f"{at}.query",
            remedy="Widen the query, or check which instances the account may read.",
        )
    return listing
