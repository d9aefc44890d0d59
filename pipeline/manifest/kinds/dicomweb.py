"""Rules of a DICOMweb server: address, query, and environment variables with the credentials."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.manifest.addresses import url_problem
from pipeline.manifest.kinds.dicom import DicomReading
from pipeline.manifest.kinds.scan_rules import ScanRules
from pipeline.manifest.rules import PathText, Rule
from pipeline.manifest.web_access import REFERENCE

Keyword = Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,64}$")]
Wanted = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Reference = Annotated[str, Field(max_length=200, pattern=REFERENCE)]


class ServerRule(Rule):
    """DICOMweb server and its query."""

    url: Annotated[str, Field(min_length=1, max_length=500)] = Field(
        description="Address of the DICOMweb service (for Orthanc, it ends in /dicom-web); ${VARIABLE} is "
        "expanded. It must not contain user or password."
    )
    query: dict[Keyword, Wanted] = Field(
        default_factory=dict,
        max_length=32,
        description="Filters of the search (QIDO-RS): DICOM keyword -> value, for example Modality: CR, "
        "StudyDate: 20200101-20201231. Without filters, all instances of the server.",
    )
    user: Reference | None = Field(None, description="Variable with the user name, as ${NAME}.")
    password: Reference | None = Field(None, description="Variable with the password, as ${NAME}.")
    token: Reference | None = Field(None, description="Variable with a bearer token, as ${NAME}.")
    ca_file: PathText | None = Field(
        None, description="CA certificates (PEM) to trust, if those of the system are not sufficient."
    )
    retry_seconds: float = Field(
        120.0, ge=0, le=86400, description="Seconds to retry a request while the server does not answer."
    )

    @field_validator("query", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        # A number in another notation (007) is not converted, so it is refused: it needs quotes.
        return {key: str(wanted) if type(wanted) is int else wanted for key, wanted in value.items()}

    @field_validator("url")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        problem = "" if value.startswith("${") else url_problem(value.replace("${", "").replace("}", ""))
        # User and password are in the part of an address before the first slash after the scheme.
        if problem or "@" in value:
            raise ValueError(problem or "an address must not contain a user or password")
        return value

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password require each other")
        if self.user is not None and self.token is not None:
            raise ValueError("give user and password, or token, not both")
        return self


class DicomWebSource(ScanRules, DicomReading, ServerRule):
    """DICOM instances of a server; the name of a file is `study/series/instance`, three UIDs."""

    how_reached: ClassVar[frozenset[str]] = frozenset(
        {"url", "user", "password", "token", "ca_file", "retry_seconds"}
    )

    kind: Literal["dicomweb"]
