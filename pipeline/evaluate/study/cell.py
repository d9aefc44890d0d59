"""One experiment of a study: all arms of one site, trained and applied to the whole test split."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from models.checkpoint import read_tensors, write_tensors
from pipeline.arrays import Floats
from pipeline.artifacts.candidates import CONDITION_COLUMN, TABLE_NAME, Candidates, requested_of
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.findings import requested_findings
from pipeline.artifacts.release import cohorts_behind, read_release
from pipeline.config import read_model
from pipeline.errors import DataError
from pipeline.evaluate.arms import Pool
from pipeline.evaluate.lineage import held_out, require_unseen
from pipeline.evaluate.plan import classifier_digest
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.study.sites import Site
from pipeline.evaluate.subgroups import Attributes
from pipeline.evaluate.trained import Sets, Trained, train_arms
from pipeline.evaluate.training import Classifier
from pipeline.records import AuditRef, CandidatesRef, CellRef, ReleaseRef
from pipeline.stage import StageInputs, verify_reference
from pipeline.storage import digest_of, write_json

CELL_NAME, SCORES_NAME = "cell.json", "scores.safetensors"
CHOICE = "whole-val"
"""Name of the set by which a study chooses: the val split of the whole cohort."""


class CellArm(BaseModel):
    """One arm of a cell.

    Attributes:
        key: unique name of the arm in the cell, such as `real_synthetic-2`.
        name: kind of arm.
        words: the arm in words.
        num_real: real training images, duplicates included.
        num_synthetic: synthetic training images.
        augmentation: `none`, `light`, or `strong` with its strength.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: str
    name: str
    words: str
    num_real: int
    num_synthetic: int
    augmentation: str


class Cell(BaseModel):
    """`cell.json`: the arms of one site.

    Attributes:
        seeds: classifier seeds.
        arms: all arms that could be trained.
        reader: key of the real-only arm that is best on the site's val. Later arms have its augmentation.
        num_train: train scans of the site by class.
        num_val: val scans of the site by class.
        num_synthetic: synthetic images that there are, by class.
        gate: verdict of the privacy gate on the synthetic images; empty without an audit.
        notes: what could not be trained, and why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format_version: Literal[2] = 2
    seeds: tuple[int, ...]
    arms: tuple[CellArm, ...]
    reader: str
    num_train: tuple[int, ...]
    num_val: tuple[int, ...]
    num_synthetic: tuple[int, ...]
    gate: str = ""
    notes: tuple[str, ...] = ()


def accepted_pool(candidates: CandidatesRef, audit: AuditRef, cohort: Cohort) -> tuple[Pool, Attributes]:
    """Return the candidates that the gate accepted, as images to train on, and their requested attributes.

    Raises:
        TamperedError: candidates or audit were changed.
        DataError: their classes are not those of the cohort.
    """
    import pandas as pd

    verify_reference(AuditRef, audit)
    drawn = Candidates(verify_reference(CandidatesRef, candidates).path)
    table = pd.read_parquet(audit.path / TABLE_NAME)
    rows = np.flatnonzero(table["accepted"].to_numpy(dtype=bool))
    position = {name: label for label, name in enumerate(cohort.info.classes)}
    names = drawn.table["class"].astype(str).to_numpy()[rows]
    if len(table) != len(drawn) or not set(names) <= set(position):
        raise DataError(
            "candidates, audit and cohort do not belong together", field="candidates", remedy="Audit again."
        )
    labels = np.array([position[name] for name in names], dtype=np.int64)
    requested = requested_of(drawn.table[CONDITION_COLUMN].iloc[rows].tolist())
    findings = requested_findings(cohort.info, labels, requested.findings)
    return Pool(labels, lambda own: drawn.take(rows[own]), findings), requested.attributes


def released_pool(release: Path | ReleaseRef, cohort: Cohort) -> tuple[Pool, Attributes]:
    """Return the images of a release as images to train on, and their requested attributes.

    Raises:
        TamperedError, DataError: as for `read_release` and `require_unseen`.
    """
    images = read_release(release, cohort)
    require_unseen(images, cohort, held_out(cohort), "val or test scans of the cohort")
    return Pool(images.labels, images.take, images.findings), images.attributes


def origin_of(release: Path, cohort: Cohort) -> str:
    """Return a note on the cohorts that a given release was made from."""
    made_from = cohorts_behind(release)
    if cohort.digest in made_from:
        return "the generator of the given release was trained on this cohort: it has seen the sites' scans"
    if made_from:
        return "the given release was made from another cohort"
    return "the given release does not say which cohort it was made from"


def start_of(audit: Path, cohort: Cohort) -> list[str]:
    """Return a note on a site's generator if its training started from a checkpoint of the whole cohort."""
    if cohort.digest in cohorts_behind(audit):
        return ["the generator started from a checkpoint of this cohort: it has seen all sites' scans"]
    return []


def run_cell(
    cohort: Cohort,
    site: Site,
    synthetic: Pool,
    out: Path,
    settings: EvaluateSettings,
    *,
    requested: Attributes | None = None,
    force: bool = False,
    seed: int,
    classifier: Classifier,
    source: str,
    gate: str = "",
    notes: tuple[str, ...] = (),
) -> CellRef:
    """Train every arm of one site, and write its scores of the cohort's val and test splits.

    Args:
        cohort: the whole cohort; its test split is read by the study once all cells are there.
        site: what the site holds.
        synthetic: synthetic images.
        out: the cell's directory; results of an interrupted call there are reused.
        settings: settings of the classifiers.
        requested: attributes that were requested of the synthetic images.
        force: replace an output of other inputs.
        seed: seed of the cell's classifiers.
        classifier: the classifier.
        source: digest of the synthetic images.
        gate: verdict of the privacy gate on them.
        notes: notes on them for the report.

    Raises:
        OutputExistsError: `out` holds something else.
    """
    rows = {split: own.tolist() for split, own in site.rows.items()}
    inputs = {"cohort": cohort.digest, "site": digest_of(rows), "synthetic": source}
    own = classifier_digest(settings)
    inputs |= {} if own is None else {"classifier": own}
    with StageInputs(CellRef, inputs, settings.content_settings(), seed).open(out, force=force) as stage:
        if stage.finished is not None:
            return stage.finished
        train, val = site.rows["train"], site.rows["val"]
        others = {CHOICE: cohort.take(cohort.rows("val"))}
        sets = Sets.of(cohort, synthetic, requested=requested, train=train, val=val, others=others)
        trained = train_arms(sets, stage.path, settings, seed=seed, classifier=classifier)
        num_val = tuple(np.bincount(cohort.labels[val], minlength=len(sets.classes)).tolist())
        cell = _describe(trained, sets, num_val, gate, (*sets.question.notes, *notes))
        write_json(stage.path / CELL_NAME, cell.model_dump(mode="json"), private=True)
        scores = {
            f"{name}/{arm.key}": torch.from_numpy(np.stack(trained.of(arm, asked)))
            for name, asked in (("val", CHOICE), ("test", "test"))
            for arm in trained.readings
        }
        write_tensors(stage.path / SCORES_NAME, scores, {})
        return stage.finish([CELL_NAME, SCORES_NAME], {"arms": len(cell.arms)})


def _describe(
    trained: Trained, sets: Sets, num_val: tuple[int, ...], gate: str, notes: tuple[str, ...]
) -> Cell:
    num_classes = len(sets.classes)
    arms = []
    for arm in trained.readings:
        arms.append(
            CellArm(
                key=arm.key,
                name=arm.name,
                words=arm.words,
                num_real=sum(arm.num_real),
                num_synthetic=sum(arm.num_synthetic),
                augmentation=arm.augmentation.words,
            )
        )
    return Cell(
        seeds=trained.seeds,
        arms=tuple(arms),
        reader=trained.reader.key if trained.reader else "",
        num_train=sets.real.counts(num_classes),
        num_val=num_val,
        num_synthetic=sets.synthetic.counts(num_classes),
        gate=gate,
        notes=(*notes, *trained.notes),
    )


def read_cell(reference: CellRef) -> tuple[Cell, dict[str, dict[str, Floats]]]:
    """Return a cell and its scores: `val` or `test` -> arm key -> (seeds, n, C).

    Raises:
        TamperedError: a file was changed.
    """
    folder = verify_reference(CellRef, reference).path
    cell = read_model(Cell, folder / CELL_NAME, role="study cell", remedy="Run the study again.")
    tensors = read_tensors(folder / SCORES_NAME).tensors
    found: dict[str, dict[str, Floats]] = {"val": {}, "test": {}}
    for name, scores in tensors.items():
        split, _, key = name.partition("/")
        found[split][key] = scores.numpy().astype(np.float64)
    return cell, found


def kinds(cells: list[Cell]) -> dict[str, str]:
    """Return the arms that all cells have, key -> kind."""
    common = set.intersection(*({arm.key for arm in cell.arms} for cell in cells))
    return {arm.key: arm.name for arm in cells[0].arms if arm.key in common}
