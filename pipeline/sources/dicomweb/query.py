"""Lists the instances of a DICOMweb server with QIDO-RS (PS3.18, section 10.6), page by page."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.errors import DataError, ManifestError
from pipeline.sources.dicomweb.http import Answer, TooLargeError, TruncatedError, WebServer
from pipeline.sources.stores.base import Entry

logger = logging.getLogger(__name__)

PAGE_SIZE = 1000
MAX_PAGE_BYTES = 64 * 2**20
MAX_INSTANCES = 5_000_000
"""Largest number of instances of one source."""

UNUSABLE_UID = "the server returned a missing or invalid UID"
"""Reason for refusing an instance whose UIDs cannot be part of an address."""

STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"
_ACCEPT = "application/dicom+json"
_UID = re.compile(r"(?!\.+$)[0-9A-Za-z._-]{1,64}")
_NOT_OFFERED = {400, 404, 405, 406, 413, 414, 422, 501}
_STUDY_KEYS = {
    "StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy", "ReferringPhysicianName", "PatientName",
    "PatientID", "PatientSex", "PatientBirthDate", "StudyInstanceUID", "StudyID", "StudyDescription",
}  # fmt: skip
_SERIES_KEYS = {
    "Modality", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "SeriesDate", "BodyPartExamined",
    "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime",
}  # fmt: skip

Row = Mapping[str, Any]


class Query:
    """A search of one server with the manifest's filters.

    Args:
        server: the server.
        filters: pairs of attribute (keyword or hexadecimal tag) and wanted value.
        page_size: number of rows requested per page.

    Raises:
        ManifestError: a filter is not a DICOM attribute. Servers ignore unknown attributes and would return
            all instances.
    """

    def __init__(
        self, server: WebServer, filters: tuple[tuple[str, str], ...], page_size: int = PAGE_SIZE
    ) -> None:
        self._server, self._filters, self._page_size = server, filters, page_size
        self._tags = {name: _tag(name) for name, _ in filters}

    def entries(self) -> list[Entry]:
        """Return an entry `study/series/instance` for every matching instance, sorted by name.

        Raises:
            DataError: the server does not answer, returns no valid search result, or ignores a filter.
        """
        names = self._pages("/instances", self._filters, _full_name)
        if names is None:
            logger.info("the server does not search all instances at once: searching study by study")
            names = self._by_study()
        return [
            Entry(name, 0, name.rsplit("/", 1)[-1], UNUSABLE_UID if _is_unusable(name) else "")
            for name in sorted(names)
        ]

    def _by_study(self) -> set[str]:
        levels: tuple[list[tuple[str, str]], ...] = ([], [], [])
        for name, value in self._filters:
            levels[0 if name in _STUDY_KEYS else 1 if name in _SERIES_KEYS else 2].append((name, value))
        names: set[str] = set()
        for study in sorted(self._level("/studies", levels[0], STUDY)):
            path = f"/studies/{study}/series"
            for series in [study] if _is_unusable(study) else sorted(self._level(path, levels[1], SERIES)):
                at = f"{path}/{series}/instances"
                for uid in [series] if _is_unusable(series) else self._level(at, levels[2], INSTANCE):
                    names.add(uid if _is_unusable(uid) else f"{study}/{series}/{uid}")
                if len(names) > MAX_INSTANCES:
                    raise self._wrong(f"it lists more than {MAX_INSTANCES} instances")
        return names

    def _level(self, path: str, filters: list[tuple[str, str]], tag: str) -> set[str]:
        uids = self._pages(path, tuple(filters), lambda row: _uid(row, tag))
        if uids is None:
            raise DataError(
                "no DICOMweb search service answers at this address",
                field="sources.url",
                value=self._server.origin,
                remedy="Set `url` to the root of the service; Orthanc's root ends in /dicom-web.",
            )
        return uids

    def _pages(
        self, path: str, filters: tuple[tuple[str, str], ...], name_of: Callable[[Row], str]
    ) -> set[str] | None:
        """Return the names of all rows, or None if the server does not offer this search.

        Pages are requested until one has no rows, because servers may return fewer rows than requested.
        """
        names: set[str] = set()
        offset = 0
        while True:
            rows = self._page(path, filters, offset)
            if rows is None:
                return None
            if not rows:
                return names
            before = len(names)
            for row in rows:
                self._check(row, filters)
                names.add(name_of(row))
            if len(names) == before:
                if offset == before != self._page_size:
                    logger.warning("the server does not page its results: the first page is used as complete")
                    return names
                raise self._wrong("it answers every page with the same instances")
            if len(names) > MAX_INSTANCES:
                raise self._wrong(f"it lists more than {MAX_INSTANCES} instances")
            offset += len(rows)

    def _page(self, path: str, filters: tuple[tuple[str, str], ...], offset: int) -> list[Row] | None:
        parameters: dict[str, Any] = {"limit": self._page_size, "offset": offset, **dict(filters)}
        parameters["includefield"] = [name for name, _ in filters]
        try:
            status, rows = self._server.get(
                path, parameters, accept=_ACCEPT, limit=MAX_PAGE_BYTES, parse=self._parse
            )
        except TooLargeError:
            raise self._wrong(f"a page is larger than {MAX_PAGE_BYTES} bytes") from None
        if status in {200, 204}:
            return rows
        if status in _NOT_OFFERED:
            return None
        raise self._wrong(f"HTTP {status}")

    def _parse(self, answer: Answer) -> tuple[int, list[Row]]:
        if answer.status != 200 or not answer.body:
            return answer.status, []
        if answer.content_type.split(";")[0].strip().lower() not in {_ACCEPT, "application/json"}:
            raise self._wrong("it is not DICOM JSON")
        try:
            rows = json.loads(answer.body)
        except RecursionError:
            raise self._wrong("its JSON is nested too deeply") from None
        except ValueError:
            raise TruncatedError from None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self._wrong("it is not DICOM JSON")
        return 200, rows

    def _check(self, row: Row, filters: tuple[tuple[str, str], ...]) -> None:
        """Refuse a row that contradicts a filter: servers may ignore filters that they do not support."""
        for name, wanted in filters:
            if not _may_match(_values(row, self._tags[name]), name, wanted):
                raise DataError(
                    "the server does not search by this attribute: it returned another value",
                    field=f"sources.query.{name}",
                    remedy="Remove the attribute from `query` in the manifest, and exclude scans by a table.",
                )

    def _wrong(self, problem: str) -> DataError:
        return DataError(
            f"the server's search result cannot be used: {problem}",
            field="sources.url",
            value=self._server.origin,
            remedy="Check that the address is that of a DICOMweb service, and read the server's log.",
        )


def _tag(name: str) -> str:
    """Return the hexadecimal tag of a keyword or tag."""
    from pydicom.datadict import tag_for_keyword

    tag = int(name, 16) if re.fullmatch(r"[0-9A-Fa-f]{8}", name) else tag_for_keyword(name)
    if tag is None:
        raise ManifestError(
            "not a DICOM attribute",
            field="sources.query",
            value=name,
            remedy="Use a keyword such as Modality, or a tag such as 00080060.",
        )
    return f"{tag:08X}"


def _values(row: Row, tag: str) -> list[str]:
    element = row.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    if not isinstance(values, list):
        return []
    return [str(value) for value in values if isinstance(value, str | int)]


def _may_match(values: list[str], name: str, wanted: str) -> bool:
    """Return whether values may match a filter; missing values, lists and wildcards are not checked."""
    if not values or set(wanted) & set("*?\\,"):
        return True
    if re.fullmatch(r"\d{8}-\d{8}", wanted) and name.endswith("Date"):
        return any(wanted[:8] <= value <= wanted[9:] for value in values)
    if "-" in wanted:
        return True
    return any(value.strip().casefold() == wanted.strip().casefold() for value in values)


def _full_name(row: Row) -> str:
    parts = [_uid(row, tag) for tag in (STUDY, SERIES, INSTANCE)]
    return next((part for part in parts if _is_unusable(part)), "/".join(parts))


def _is_unusable(name: str) -> bool:
    return name.startswith("-/")


def _uid(row: Row, tag: str) -> str:
    """Return a row's UID, or a placeholder that starts with `-/` if the UID is missing or invalid."""
    found = _values(row, tag)[:1]
    if found and _UID.fullmatch(found[0]):
        return found[0]
    digest = hashlib.sha256(json.dumps(row, sort_keys=True).encode("utf-8", "surrogatepass"))
    return f"-/{digest.hexdigest()[:16]}"
