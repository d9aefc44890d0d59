"""Finds the images in a folder of another generator, and the files that cannot be audited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import DataError
from pipeline.manifest.file_endings import ending_of
from pipeline.storage import digest_of, sha256_file

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}
MAX_IMAGES = 1_000_000

NO_CLASS = "an image in no class-named folder"
NOT_LOOKED_AT = "not of a kind that is looked at"
HIDDEN = "a hidden file"
FOLDER_LINK = "a link to a folder, which is not followed"
CLOSED = "a folder that cannot be read"
NO_FILE = "neither a file nor a folder"

_SIDECARS = {".txt", ".csv", ".tsv", ".json", ".yaml", ".yml", ".md", ".log", ".html", ".xml"}
"""Text files that accompany images and contain none."""

_CLUTTER = {".ds_store", "thumbs.db", "desktop.ini"}


@dataclass
class ForeignFiles:
    """Contents of a folder.

    Attributes:
        folder: the folder.
        images: paths of the images, in the order of their parts; the first part is the class.
        unread: relative name -> why it was not looked at; images may be among these files.
        texts: number of text and operating-system files, which contain no image.
    """

    folder: Path
    images: list[Path] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    texts: int = 0

    def hashes(self) -> list[tuple[str, str]]:
        """Return relative path and sha256 (hex) of every image, in the order of `images`.

        Raises:
            DataError: an image cannot be read.
        """
        try:
            return [(path.relative_to(self.folder).as_posix(), sha256_file(path)) for path in self.images]
        except OSError as error:
            raise DataError(
                "an image cannot be read", field="candidates", remedy="Give yourself read access to it."
            ) from error

    def digest(self, hashes: list[tuple[str, str]]) -> str:
        """Return the content digest of the folder; unread files affect the verdict, so they are part of it.

        Args:
            hashes: of the images, from `hashes`.
        """
        return digest_of([hashes, sorted(self.unread.items())] if self.unread else hashes)

    def notes(self) -> list[str]:
        """Return what was not looked at, without naming any file."""
        found: dict[str, list[str]] = {}
        for name, reason in self.unread.items():
            found.setdefault(reason, []).append(name)
        notes = []
        for reason, names in sorted(found.items()):
            endings = Counter(map(ending_of, names)).most_common()
            told = ", ".join(f"{ending} {count}" for ending, count in endings)
            notes.append(f"{len(names)} files of the folder were not looked at: {reason} ({told})")
        if self.texts:
            notes.append(f"{self.texts} files of the folder are texts without images and were not read")
        return notes


def find_images(folder: Path) -> ForeignFiles:
    """List the images below class-named folders at any depth, and count all other files.

    Raises:
        DataError: not a folder, no image, too many images, or an image that is a link.
    """
    if not folder.is_dir():
        raise DataError(
            "is neither a candidates directory nor a folder of class-named sub-folders",
            field="candidates", value=str(folder), remedy="Pass the output of phosphor sample.",
        )  # fmt: skip
    found = ForeignFiles(folder)
    for name, skipped in _walk(folder, (), hidden=False):
        path = folder / name
        last = path.name.lower()
        if last in _CLUTTER or last.startswith("._") or (path.suffix.lower() in _SIDECARS and not skipped):
            found.texts += 1
        elif skipped:
            found.unread[name] = skipped
        elif path.suffix.lower() not in SUFFIXES:
            found.unread[name] = NOT_LOOKED_AT
        elif path.is_symlink():
            raise DataError("an image is a link", field="candidates", remedy="Copy the image itself.")
        elif "/" not in name:
            found.unread[name] = NO_CLASS
        else:
            found.images.append(path)
        if len(found.images) > MAX_IMAGES:
            raise DataError(f"more than {MAX_IMAGES} images", field="candidates", remedy="Audit parts.")
    if not found.images:
        seen = "; ".join(found.notes())
        raise DataError(
            "holds no PNG, JPEG, WebP, TIFF or BMP images in class-named sub-folders",
            field="candidates", value=str(folder),
            remedy=f"Arrange the folder as <class>/<image>.png{f' ({seen})' if seen else ''}.",
        )  # fmt: skip
    return found


def _walk(folder: Path, parts: tuple[str, ...], *, hidden: bool) -> Iterator[tuple[str, str]]:
    """Yield (relative name, why it is skipped or "") of all entries but folders, sorted by their parts."""
    try:
        inside = sorted(folder.iterdir(), key=lambda path: path.name)
    except PermissionError:
        yield "/".join(parts), CLOSED
        return
    for path in inside:
        here = (*parts, path.name)
        is_hidden = hidden or path.name.startswith(".")
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path, here, hidden=is_hidden)
        elif path.is_dir():
            yield "/".join(here), FOLDER_LINK
        else:
            yield (
                "/".join(here),
                HIDDEN if is_hidden else "" if path.is_symlink() or path.is_file() else NO_FILE,
            )
