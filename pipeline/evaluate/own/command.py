"""A program of the user's own as classifier: it reads tables and PNG files, and writes a table of scores."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.pixels import StoredPixels, at_depth, common_depth
from pipeline.errors import UsageError
from pipeline.evaluate.arms import Arm
from pipeline.evaluate.own.process import ChildError, OwnClassifier
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.training import ROUNDING, SUM_TOLERANCE, Fit
from pipeline.evaluate.truth import Question, Targets

JOB_NAME, TRAIN_NAME, SCORE_NAME, SCORES_NAME = "job.json", "train.csv", "score.csv", "scores.csv"
IMAGE_COLUMN, CLASS_COLUMN = "image", "class"


class CommandClassifier(OwnClassifier):
    """A program as classifier; docs/evaluation.md describes its files.

    Args:
        settings: settings with `command`.
        question: what the program is asked.
        folder: folder of the results.

    Raises:
        UsageError: there is no such program, it may not be executed, or a class or finding is called `image`.
    """

    def __init__(self, settings: EvaluateSettings, question: Question, folder: Path) -> None:
        program, *arguments = settings.command_words
        found = shutil.which(program)
        if found is None:
            raise UsageError(
                "is not found, or not executable",
                field="evaluate.command",
                value=program,
                remedy="Name a program by its path, or one that is in PATH, and make it executable.",
            )
        if IMAGE_COLUMN in question.names:
            raise UsageError(
                f"cannot be used: {IMAGE_COLUMN}, a column of {SCORES_NAME}, is also a class or finding",
                field="evaluate.command",
                remedy="Rename it in the manifest, or name module:function in evaluate.classifier.",
            )
        super().__init__(
            [found, *arguments], folder, minutes=settings.classifier_minutes, field="evaluate.command"
        )
        self._question = question

    def hand_over(
        self,
        folder: Path,
        arm: Arm,
        parts: Sequence[tuple[StoredPixels, Targets]],
        asked: Sequence[StoredPixels],
        *,
        num_classes: int,
        seed: int,
    ) -> None:
        """Write images, tables and `job.json`."""
        [(pixels, targets)] = parts
        # One depth for all of them: a real image must not be told from a synthetic one by it.
        depth = common_depth([pixels, *asked])
        names = _write_images(folder, "train", [pixels], depth)
        header, answers = self._answers(targets)
        rows = ((name, *answer) for name, answer in zip(names, answers, strict=True))
        _write_table(folder / TRAIN_NAME, (IMAGE_COLUMN, *header), rows)
        names = _write_images(folder, "score", asked, depth)
        _write_table(folder / SCORE_NAME, (IMAGE_COLUMN,), zip(names))
        job = {
            "arm": arm.key,
            "seed": seed,
            "balanced": arm.balanced,
            "findings" if self._question.columns else "classes": self._question.names,
            "image_size": pixels.shape[2:],
            "bit_depth": depth,
        }
        (folder / JOB_NAME).write_text(json.dumps(job, indent=2), encoding="utf-8", newline="")

    def _answers(self, targets: Targets) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return the columns of the training table besides the image, and their cells."""
        names = self._question.names
        if targets.ndim == 1:
            return (CLASS_COLUMN,), [(names[label],) for label in targets.tolist()]
        cells = {0.0: "0", 1.0: "1"}
        return names, [tuple(cells.get(state, "") for state in row) for row in targets.tolist()]

    def read(self, folder: Path, asked: Sequence[StoredPixels], *, num_classes: int) -> Fit:
        """Read `scores.csv`.

        Raises:
            ChildError: it is missing, or a row, column or value of it cannot be used.
        """
        names = _names("score", sum(len(part) for part in asked))
        exclusive = not self._question.columns
        scores = read_scores(folder / SCORES_NAME, names, self._question.names, exclusive=exclusive)
        ends = np.cumsum([len(part) for part in asked])[:-1]
        return Fit(tuple(np.split(scores, ends)))


def read_scores(
    path: Path, names: Sequence[str], classes: Sequence[str], *, exclusive: bool = True
) -> npt.NDArray[np.float32]:
    """Read a table with an image and a probability for each class or finding in each line.

    Args:
        path: CSV file in UTF-8 with a header; rows and columns in any order.
        names: images that it must have.
        classes: classes or findings, the columns that it must have.
        exclusive: whether each image is of one class: each row must sum to 1 within `SUM_TOLERANCE`.

    Returns:
        (n, C) float32 in the order of `names` and `classes`.

    Raises:
        ChildError: the table is missing or cannot be used; no value of it is in the message.
    """
    place = {name: row for row, name in enumerate(names)}
    scores = np.full((len(names), len(classes)), np.nan, dtype=np.float32)
    if not path.is_file():
        raise ChildError(f"wrote no {path.name}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream, strict=True)
            header = [cell.strip() for cell in next(lines, [])]
            _require_columns(header, [IMAGE_COLUMN, *classes], path.name)
            order = [header.index(name) for name in classes]
            for cells in lines:
                if not cells:
                    continue
                where = f"in line {lines.line_num} of {path.name}"
                if len(cells) != len(header):
                    raise ChildError(f"wrote {len(cells)} instead of {len(header)} cells {where}")
                row = place.get(cells[header.index(IMAGE_COLUMN)].strip())
                if row is None:
                    raise ChildError(f"wrote an image that is not in {SCORE_NAME} {where}")
                if not np.isnan(scores[row, 0]):
                    raise ChildError(f"wrote the image {names[row]} a second time {where}")
                scores[row] = _probabilities([cells[column] for column in order], where, exclusive=exclusive)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ChildError(f"wrote a {path.name} that is no CSV table in UTF-8") from error
    missing = np.flatnonzero(np.isnan(scores[:, 0]))
    if len(missing):
        raise ChildError(
            f"wrote no scores of {len(missing)} of {len(names)} images (first {names[missing[0]]})"
        )
    return scores


def _require_columns(header: list[str], wanted: list[str], table: str) -> None:
    for problem, names in (
        ("without the column", [name for name in wanted if name not in header]),
        ("with the column twice:", [name for name in wanted if header.count(name) > 1]),
    ):
        if names:
            raise ChildError(f"wrote a {table} {problem} {', '.join(names)}")
    if len(header) != len(wanted):
        raise ChildError(f"wrote a {table} with other columns than {', '.join(wanted)}")


def _probabilities(cells: list[str], where: str, *, exclusive: bool) -> list[float]:
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        raise ChildError(f"wrote text instead of a number {where}") from None
    if not all(math.isfinite(value) for value in values):
        raise ChildError(f"wrote a number that is not finite {where}")
    if min(values) < -ROUNDING or max(values) > 1 + ROUNDING:
        raise ChildError(f"wrote a probability below 0 or above 1 {where}")
    if exclusive and abs(sum(values) - 1) > SUM_TOLERANCE:
        raise ChildError(f"wrote probabilities that do not add up to 1 {where}")
    return values


def _names(kind: str, count: int) -> list[str]:
    return [f"{kind}/{number:06d}.png" for number in range(count)]


def _write_images(folder: Path, kind: str, sets: Sequence[StoredPixels], depth: int) -> list[str]:
    """Write images as greyscale PNG files; return their names, numbered through all sets."""
    names = _names(kind, sum(len(images) for images in sets))
    (folder / kind).mkdir()
    paths = iter(names)
    for images in sets:
        for image in images:
            _write_png(folder / next(paths), at_depth(image[0], depth))
    return names


def _write_png(path: Path, pixels: StoredPixels) -> None:
    from PIL import Image

    # Written once and read once: time matters more than space.
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, format="PNG", compress_level=1)


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
