"""Files of a source that are not read: counts by reason, hashed names and remedies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from pipeline.identity import Pseudonyms
from pipeline.manifest.file_endings import ending_of
from pipeline.sources.stores.base import CLOSED, FOLDER_LINK, INNER_LINK, LINK

UNMATCHED = "matches no include pattern"
"""Reason of a readable file outside the include patterns."""

EXAMPLES = 3
"""Number of hashed names in a note; the private map contains all of them."""

_REMEDY = {
    FOLDER_LINK: "replace the link by the folder or a mount, or add the folder as another source",
    INNER_LINK: "replace the link by the folder, or add the folder as another source",
    LINK: "pack the files instead of links",
    CLOSED: "get read permission",
    UNMATCHED: "if they are scans, correct the manifest's include",
}


def unread_counts(unread: Mapping[str, str]) -> dict[str, int]:
    """Return reason -> number of files, most frequent first.

    Args:
        unread: unique name of each file (identifying) -> reason.
    """
    counts = Counter(unread.values())
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def unread_notes(unread: Mapping[str, str], pseudonyms: Pseudonyms | None) -> list[str]:
    """Return one sentence per reason: number of files, endings, examples (hashed names), remedy.

    Args:
        unread: unique name of each file (identifying) -> reason.
        pseudonyms: pseudonyms for the names; None, if there is no key yet, omits the examples.
    """
    notes = []
    for reason, count in unread_counts(unread).items():
        names = sorted(name for name, why in unread.items() if why == reason)
        endings = Counter(ending_of(name) for name in names).most_common()
        counts = ", ".join(f"{ending} {number}" for ending, number in endings)
        note = f"not read: {count} {'entry' if count == 1 else 'entries'} of the source ({reason}; {counts})"
        if pseudonyms is not None:
            note += f", such as {', '.join(pseudonyms.scan(name) for name in names[:EXAMPLES])}"
        remedy = _REMEDY.get(reason)
        notes.append(f"{note}; {remedy}" if remedy else note)
    return notes
