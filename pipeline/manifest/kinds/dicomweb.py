"""What a manifest says of a server: its address, what to ask it for, and where the secrets stand."""

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
    """A DICOMweb server, and how it is asked."""

    url: Annotated[str, Field(min_length=1, max_length=500)] = Field(
        description="Address of the DICOMweb service (of Orthanc, it ends in /dicom-web); ${VARIABLE} is "
        "expanded. User and password do not belong into it."
    )
    query: dict[Keyword, Wanted] = Field(
        default_factory=dict,
        max_length=32,
        description="Filters of the search (QIDO-RS): DICOM keyword -> wanted value, for example Modality: "
        "CR, StudyDate: 20200101-20201231. Without it, everything that the server holds.",
    )
    user: Reference | None = Field(None, description="The variable with the user's name, as ${NAME}.")
    password: Reference | None = Field(None, description="The variable with the password, as ${NAME}.")
    token: Reference | None = Field(None, description="The variable with a bearer token, as ${NAME}.")
    ca_file: PathText | None = Field(
        None, description="Certificates (PEM) that the server's must lead to, where the system's do not do."
    )
    retry_seconds: float = Field(
        120.0, ge=0, le=86400, description="How long a request waits for a server that is away."
    )

    @field_validator("query", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        # A number that is written otherwise than it is read (007) stays one and is refused: it wants quotes.
        return {key: str(wanted) if type(wanted) is int else wanted for key, wanted in value.items()}

    @field_validator("url")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        problem = "" if value.startswith("${") else url_problem(value.replace("${", "").replace("}", ""))
        # The part of an address that may name a user stands before the first slash behind its scheme.
        if problem or "@" in value:
            raise ValueError(problem or "an address must not hold a user or password")
        return value

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password belong together")
        if self.user is not None and self.token is not None:
            raise ValueError("give user and password, or token")
        return self


class DicomWebSource(ScanRules, DicomReading, ServerRule):
    """The DICOM instances of a server; a file's name is `study/series/instance`, three UIDs."""

    how_reached: ClassVar[frozenset[str]] = frozenset(
        {"url", "user", "password", "token", "ca_file", "retry_seconds"}
    )

    kind: Literal["dicomweb"]
