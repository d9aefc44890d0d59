"""What lies in a source and is not read: counted by kind, named by pseudonym, told with the remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from pipeline.identity import Pseudonyms
from pipeline.manifest.file_endings import ending_of
from pipeline.sources.stores.base import CLOSED, FOLDER_LINK, INNER_LINK, LINK

UNMATCHED = "matches no include pattern"
"""Why a file is not read though nothing else speaks against it."""

EXAMPLES = 3
"""Hashed names told of a kind; the private map resolves them all."""

_REMEDY = {
    FOLDER_LINK: "put the folder itself there, mount it there, or name it as a source of its own",
    INNER_LINK: "put a folder there, or name it as a source of its own",
    LINK: "pack the files themselves",
    CLOSED: "give yourself read access",
    UNMATCHED: "correct the manifest's include if they are scans",
}


def unread_counts(unread: Mapping[str, str]) -> dict[str, int]:
    """Return reason -> files, most frequent first.

    Args:
        unread: unique name of each file (identifying) -> reason.
    """
    counts = Counter(unread.values())
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def unread_notes(unread: Mapping[str, str], pseudonyms: Pseudonyms | None) -> list[str]:
    """Return one sentence a reason: how many, of which endings, which (by hashed name), what to do.

    Args:
        unread: unique name of each file (identifying) -> reason.
        pseudonyms: hashes the names; None where there is no key yet, then none are told.
    """
    notes = []
    for reason, count in unread_counts(unread).items():
        names = sorted(name for name, why in unread.items() if why == reason)
        endings = Counter(ending_of(name) for name in names).most_common()
        told = ", ".join(f"{ending} {number}" for ending, number in endings)
        note = f"not read: {count} {'entry' if count == 1 else 'entries'} of the source ({reason}; {told})"
        if pseudonyms is not None:
            note += f", such as {', '.join(pseudonyms.scan(name) for name in names[:EXAMPLES])}"
        remedy = _REMEDY.get(reason)
        notes.append(f"{note}; {remedy}" if remedy else note)
    return notes
