"""Invented identities: everything in a phantom's headers and file names that would name a real patient.

Every field of `PatientIdentity` and `ImageIdentity` is identifying and nothing else in a phantom file is,
so that the list of planted values is complete by construction.
"""

from __future__ import annotations

import datetime as dt
import unicodedata
from dataclasses import dataclass, fields

import numpy as np

from pipeline.phantom.anatomy import demographics
from pipeline.phantom.settings import PatientPlan

_STREAM_IDENTITY, _STREAM_IMAGE_IDENTITY = 41, 42

# Syllables, so that no name is a word and a name found anywhere is a leak and no accident.
_HEADS = ("Brzo", "Kvel", "Tamru", "Oxla", "Wyzne", "Jarqu", "Schwyn", "Drovi", "Mblax", "Quist", "Vrenk")
_MIDDLES = ("mira", "kowi", "tendo", "lanzu", "brechi", "stova", "garyn", "pelqu", "dwixa", "fenjo")
_TAILS = ("czek", "ström", "ñuela", "haimb", "wicki", "ôvar", "dzhan", "mørk", "blatt", "yłka")
_GIVEN_F = ("Anneqve", "Zofjina", "Mirelda", "Éloïxe", "Katjusza", "Ingvilde", "Oksanuta", "Beatrujz")
_GIVEN_M = ("Jörgwin", "Tadeuqs", "Wolframo", "Étiennox", "Ruslanko", "Søreniel", "Giacobbo", "Henrijk")
_IDEOGRAPHIC = (
    ("Yamazawa^Tarohiko", "山沢^太郎彦", "やまざわ^たろうひこ"),
    ("Kurotani^Hanemi", "黒谷^羽美", "くろたに^はねみ"),
    ("Shinokawa^Rintaro", "篠川^麟太郎", "しのかわ^りんたろう"),
)
_STREETS = ("Lindenqampweg", "Rue des Grevillxons", "Ulica Żurawczyna", "Calle Ñandubayo", "Elmquarry Road")
_TOWNS = ("Musterhavn", "Villeneuxe-sur-Orb", "Wrzosovnia", "Puerto Ñandul", "Great Quillbury")
_SITES = (
    ("St. Quirinus Thoraxklinik", "Krankenhausallee 4711, Musterhavn", "SQTK"),
    ("Hôpital Saint-Evroxe", "12 quai des Falmandes, Villeneuxe", "HSEX"),
    ("Wrzosovnia Regional Hospital", "ul. Szpitalnova 88, Wrzosovnia", "WRRH"),
)


@dataclass(frozen=True, slots=True)
class PatientIdentity:
    """Who a phantom patient pretends to be. Names follow DICOM PN; dates are YYYYMMDD.

    Every field holds identifying text.
    """

    name: str
    folded_name: str
    patient_id: str
    other_id: str
    birth_date: str
    birth_name: str
    address: str
    phone: str
    mother: str
    comments: str
    institution: str
    institution_address: str
    station: str
    folder: str


@dataclass(frozen=True, slots=True)
class ImageIdentity:
    """What a phantom image says of its study. Every field holds identifying text."""

    study_uid: str
    series_uid: str
    sop_uid: str
    frame_uid: str
    accession: str
    study_date: str
    study_time: str
    content_time: str
    study_description: str
    referring: str
    performing: str
    operator: str
    request_id: str
    earlier_id: str
    device_serial: str
    private_note: str
    study_folder: str
    file_stem: str


def identify_patient(plan: PatientPlan) -> PatientIdentity:
    """Identity of a patient, a function of the plan alone."""
    rng = np.random.default_rng([plan.patient_seed, _STREAM_IDENTITY])
    sex, age = demographics(plan.patient_seed)
    surname, given = _surname(rng), str(rng.choice(_GIVEN_F if sex == "F" else _GIVEN_M))
    name = f"{surname}^{given}"
    if rng.random() < 0.12:
        latin, ideographic, phonetic = _IDEOGRAPHIC[int(rng.integers(len(_IDEOGRAPHIC)))]
        name = f"{latin}={ideographic}={phonetic}"
    folded = _fold(name.split("=")[0]).replace("^", "_")
    patient_id = f"PH-{int(rng.integers(10**7, 10**8))}-{plan.index:06d}"
    # A birthday 1 to 100 days before the first study: the age then holds for every study of the patient.
    born = _first_study(plan) - dt.timedelta(days=int(rng.integers(1, 100)))
    born = born.replace(year=born.year - age, day=min(born.day, 28))
    site = _SITES[int(rng.integers(len(_SITES)))]
    phone = f"+4930555{int(rng.integers(10**6, 10**7))}"
    street, town = str(rng.choice(_STREETS)), str(rng.choice(_TOWNS))
    return PatientIdentity(
        name=name,
        folded_name=folded,
        patient_id=patient_id,
        other_id=f"NHS{int(rng.integers(10**9, 10**10))}",
        birth_date=born.strftime("%Y%m%d"),
        birth_name=f"{_surname(rng)}^{given}",
        address=f"{street} {int(rng.integers(1, 200))}, {int(rng.integers(10000, 99999))} {town}",
        phone=phone,
        mother=f"{_surname(rng)}^{rng.choice(_GIVEN_F)}",
        comments=f"Ring {folded.replace('_', ' ')} on {phone}",
        institution=site[0],
        institution_address=site[1],
        station=f"{site[2]}-XR-{int(rng.integers(100, 999))}",
        folder=f"{folded}_{patient_id}",
    )


def identify_image(plan: PatientPlan, patient: PatientIdentity, image: int) -> ImageIdentity:
    """Identity of image number `image` of a patient: every second one belongs to a study of its own."""
    study = (image + 1) // 2
    shared = np.random.default_rng([plan.patient_seed, _STREAM_IDENTITY, 1, study])
    rng = np.random.default_rng([plan.patient_seed, _STREAM_IMAGE_IDENTITY, image])
    date = _first_study(plan) + dt.timedelta(days=min(study * int(shared.integers(20, 45)), 240))
    clock = f"{int(shared.integers(7, 19)):02d}{int(shared.integers(60)):02d}"
    number = int(shared.integers(10**9, 10**10))
    stamp = date.strftime("%Y%m%d")
    return ImageIdentity(
        study_uid=_uid(shared),
        series_uid=_uid(rng),
        sop_uid=_uid(rng),
        frame_uid=_uid(rng),
        accession=f"ACC{number}",
        study_date=stamp,
        study_time=f"{clock}{int(shared.integers(60)):02d}.{int(shared.integers(10**5, 10**6))}",
        content_time=f"{clock}{int(rng.integers(60)):02d}.{int(rng.integers(10**5, 10**6))}",
        study_description=f"Thorax for Dr {_surname(shared)}, ward {int(shared.integers(100, 999))}",
        referring=f"{_surname(shared)}^{shared.choice(_GIVEN_M)}^^Dr.",
        performing=f"{_surname(shared)}^{shared.choice(_GIVEN_F)}^^Prof.",
        operator=f"{_surname(rng)}^{rng.choice(_GIVEN_F)}",
        request_id=f"RQ{int(shared.integers(10**9, 10**10))}",
        earlier_id=f"OLD-{int(rng.integers(10**8, 10**9))}",
        device_serial=f"SN{int(shared.integers(10**8, 10**9))}",
        private_note=f"bed of {patient.folded_name}, key {int(rng.integers(10**8, 10**9))}",
        study_folder=f"{stamp}_ACC{number}",
        file_stem=f"{patient.folded_name}_{stamp}_{image + 1:03d}",
    )


def planted(identity: PatientIdentity | ImageIdentity) -> list[str]:
    """Every identifying value of an identity, with the parts of names that can leak by themselves."""
    values: list[str] = []
    for field in fields(identity):
        value = str(getattr(identity, field.name))
        values.append(value)
        if field.name in {"name", "birth_name", "mother", "referring", "performing", "operator"}:
            for group in value.split("="):
                # Each group, and the family name where it is long enough not to occur by chance.
                family = group.split("^")[0]
                values += [group, family] if len(family) >= 7 or not family.isascii() else [group]
    return values


def _first_study(plan: PatientPlan) -> dt.date:
    rng = np.random.default_rng([plan.patient_seed, _STREAM_IDENTITY, 2])
    return dt.date(2016, 1, 1) + dt.timedelta(days=int(rng.integers(0, 2500)))


def _surname(rng: np.random.Generator) -> str:
    return str(rng.choice(_HEADS)) + str(rng.choice(_MIDDLES)) + str(rng.choice(_TAILS))


def _uid(rng: np.random.Generator) -> str:
    """A UID under 2.25 (an integer as a UUID, PS3.5 B.2)."""
    return f"2.25.{int.from_bytes(rng.bytes(15), 'big') | 1 << 119}"


def _fold(text: str) -> str:
    """ASCII form of a Latin name for file systems, as exporters write it."""
    plain = text.translate(str.maketrans("øłØŁ", "olOL"))
    return unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
