"""`study.json`: all effects of a study, with every arm's figures; and the words for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipeline.append_log import READS_NAME, append_entry, log_beside, read_entries
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.evaluation_report import Estimate, Outcome, PartChange
from pipeline.config import read_model
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.study.cell import Cell, kinds, read_cell
from pipeline.evaluate.study.plan import Experiment
from pipeline.evaluate.study.statistics import (
    Effect,
    Resampled,
    mean_auc,
    measure_effect,
    resample,
    synthetic_arms,
)
from pipeline.evaluate.truth import Question, Truth, patient_numbers
from pipeline.records import CellRef
from pipeline.storage import digest_of, write_json
from pipeline.wording.evaluation import verdict_of

REPORT_NAME = "study.json"

REGIME_WORDS = {
    "shared": "a site of few scans uses synthetic images of a generator trained elsewhere",
    "self": "the generator was trained on the site's own few scans",
    "imbalanced": "a site has few scans of one class beside all of the others, and its own generator",
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StudyArm(_Part):
    """An arm at one regime and size.

    Attributes:
        key: unique name of the arm.
        name: kind of arm.
        words: the arm in words.
        val: mean AUC on the cohort's val split over sites and seeds.
        test: mean AUC on test over sites and seeds.
        by_site: mean test AUC of each site over seeds.
        difference: of a synthetic arm: its change in test AUC, with a 95 % interval that holds for all
            synthetic arms of all rows together.
    """

    key: str
    name: str
    words: str
    val: float
    test: float
    by_site: tuple[float, ...]
    difference: Estimate | None = None


class StudyRow(_Part):
    """The result at one regime and size.

    Attributes:
        regime: `shared`, `self` or `imbalanced`.
        size: train scans per class of a site, or `all`.
        sites: number of sites.
        seeds: number of classifier seeds of each.
        arms: all arms that every site could train.
        chosen: synthetic arm that is best on the cohort's val split; empty if none could be trained.
        rival: best real-only arm on test.
        difference: change in test AUC, with a 95 % interval that holds for all rows together.
        by_site: the same by site.
        errors: source of the uncertainty -> standard error: `patients`, `sites`, `seeds`.
        by_finding: finding -> change of the chosen arm, with intervals that hold for all findings of all rows
            together; empty if classes are asked.
        p_value: one-sided, not corrected for the number of rows.
        verdict: `helps`, `no measurable effect`, `could not tell`, `harms` or `not measured`.
        words: the result in a sentence.
        gates: verdict of the privacy gate -> number of sites.
        notes: what sites could not train.
    """

    regime: str
    size: int | Literal["all"]
    sites: int
    seeds: int
    arms: tuple[StudyArm, ...]
    chosen: str
    rival: str
    difference: Estimate | None
    by_site: tuple[float, ...]
    by_finding: dict[str, PartChange] = Field(default_factory=dict)
    errors: dict[str, float]
    p_value: float | None
    verdict: Outcome
    words: str
    gates: dict[str, int]
    notes: tuple[str, ...]


class StudyReport(_Part):
    """All results of a study (private: computed from real patients).

    Attributes:
        cohort_digest: digest of the whole cohort.
        classifier: name of the classifier.
        num_test: number of test scans.
        num_test_patients: number of their patients.
        rows: results by regime and size.
        missing: sites that `study.max_hours` left out.
    """

    format_version: Literal[1] = 1
    cohort_digest: str
    classifier: str
    num_test: int
    num_test_patients: int
    rows: tuple[StudyRow, ...]
    missing: int = 0


def measure_row(
    regime: str,
    size: int | Literal["all"],
    references: Sequence[CellRef],
    val: Truth,
    test: Truth,
    *,
    findings: Sequence[str],
    num_rows: int,
    num_resamples: int,
    seed: int,
) -> StudyRow:
    """Measure one regime and size from its cells.

    The synthetic arm is chosen on the val split of the whole cohort, by the mean over sites and seeds: the
    question is which use of synthetic images to recommend at this size, and a site's own val is too small.

    Args:
        regime: the regime.
        size: the size.
        references: cells of its sites.
        val: the val split of the whole cohort.
        test: its test split.
        findings: names of the findings, if the classifiers are asked for them.
        num_rows: number of rows of the study, whose verdicts hold together.
        num_resamples: bootstrap draws.
        seed: seed of the draws.
    """
    read = [read_cell(reference) for reference in references]
    cells = [cell for cell, _ in read]
    known = kinds(cells)
    on_val = mean_auc([scores["val"] for _, scores in read], list(known), val.labels)
    tested = [scores["test"] for _, scores in read]

    def resampled(keys: list[str], column: int | None = None) -> dict[str, Resampled]:
        """Return the arms' AUC, or that of one finding."""
        own = slice(None) if column is None else slice(column, column + 1)
        cut = [{key: scores[key][..., own] for key in keys} for scores in tested]
        labels = test.labels if column is None else test.labels[:, own]
        return resample(cut, keys, labels, test.patients, count=num_resamples, seed=seed)

    def effect_of(key: str, among: Mapping[str, Resampled], comparisons: int) -> Effect:
        return measure_effect(
            key,
            among,
            known,
            comparisons=comparisons,
            num_scans=len(test.labels),
            num_patients=len(np.unique(test.patients)),
        )

    measured = resampled(list(known))
    synthetic = synthetic_arms(known)
    chosen = max(synthetic, key=lambda key: on_val[key], default=None)
    by_arm = {key: effect_of(key, measured, num_rows * len(synthetic)).difference for key in synthetic}
    effect, by_finding = None, dict[str, PartChange]()
    if chosen is not None:
        effect = effect_of(chosen, measured, num_rows)
        needed = [chosen, *(key for key in known if key not in synthetic)]
        for column, name in enumerate(findings):
            own = resampled(needed, column)
            found = effect_of(chosen, own, num_rows * len(findings))
            known_scans = {"n": int((~np.isnan(test.labels[:, column])).sum())}
            by_finding[name] = PartChange(
                compared_with=found.rival,
                real=Estimate(value=float(own[found.rival].plain.mean()), **known_scans),
                synthetic=Estimate(value=float(own[chosen].plain.mean()), **known_scans),
                change=found.difference.model_copy(update=known_scans),
            )
    words = {arm.key: arm.words for arm in cells[0].arms}
    arms = tuple(
        StudyArm(
            key=key,
            name=name,
            words=words[key],
            val=on_val[key],
            test=float(measured[key].plain.mean()),
            by_site=tuple(measured[key].plain.mean(axis=1).tolist()),
            difference=by_arm.get(key),
        )
        for key, name in known.items()
    )
    gates: dict[str, int] = {}
    for cell in cells:
        if cell.gate:
            gates[cell.gate] = gates.get(cell.gate, 0) + 1
    verdict: Outcome = "not measured" if effect is None else verdict_of(effect.difference)
    return StudyRow(
        regime=regime,
        size=size,
        sites=len(cells),
        seeds=len(cells[0].seeds),
        arms=arms,
        chosen=effect.chosen if effect else "",
        rival=effect.rival if effect else "",
        difference=effect.difference if effect else None,
        by_site=effect.by_site if effect else (),
        by_finding=by_finding,
        errors=vars(effect.shares) if effect else {},
        p_value=effect.p_value if effect else None,
        verdict=verdict,
        words=_sentence(size, verdict, effect, words),
        gates=gates,
        notes=(*_not_covered(cells), *dict.fromkeys(note for cell in cells for note in cell.notes)),
    )


def _not_covered(cells: Sequence[Cell]) -> list[str]:
    """Return notes on the sources of uncertainty that the interval does not cover."""
    lacking = {"sites": len(cells), "classifier seeds": len(cells[0].seeds)}
    return [
        f"the interval does not cover the spread over {source}: there is one only"
        for source, count in lacking.items()
        if count == 1
    ]


def _sentence(size: int | str, verdict: str, effect: Effect | None, words: Mapping[str, str]) -> str:
    scans = "all scans" if size == "all" else f"{size} scans a class"
    if effect is None:
        return f"With {scans}, no synthetic arm could be trained."
    change = effect.difference
    return (
        f"With {scans}, {words[effect.chosen]} changed the test AUC by {change.value:+.3f} (95 % interval "
        f"{change.low:+.3f} to {change.high:+.3f}) against the best use of real scans alone, "
        f"{words[effect.rival]}: {verdict}."
    )


def measure_study(
    folder: Path,
    cohort: Cohort,
    done: Mapping[Experiment, CellRef],
    planned: Sequence[Experiment],
    settings: EvaluateSettings,
    *,
    seed: int,
) -> StudyReport:
    """Measure all finished experiments and write `study.json`; the read of the test split is logged.

    Args:
        folder: directory of the study.
        cohort: the whole cohort.
        done: finished experiments.
        planned: all experiments of the study.
        settings: settings of the evaluation.
        seed: seed of the study.
    """
    groups: dict[tuple[str, int | Literal["all"]], list[CellRef]] = {}
    for experiment, reference in done.items():
        groups.setdefault((experiment.regime, experiment.size), []).append(reference)
    patients = patient_numbers(cohort)
    question = Question.of(cohort)
    val, test = (question.truth(cohort, split, patients) for split in ("val", "test"))
    entry = {"cohort": cohort.digest, "study": digest_of(sorted(own.digest for own in done.values()))}
    log = log_beside(folder / REPORT_NAME, READS_NAME)
    known = [{name: earlier.get(name) for name in entry} for earlier in read_entries(log)]
    if done and entry not in known:
        append_entry(log, entry)
    num_rows = len({(experiment.regime, experiment.size) for experiment in planned})
    report = StudyReport(
        cohort_digest=cohort.digest,
        classifier=settings.classifier,
        num_test=len(test.labels),
        num_test_patients=len(np.unique(test.patients)),
        rows=tuple(
            measure_row(
                regime,
                size,
                references,
                val,
                test,
                findings=question.names if question.columns else (),
                num_rows=num_rows,
                num_resamples=settings.num_resamples,
                seed=seed,
            )
            for (regime, size), references in groups.items()
        ),
        missing=len(planned) - len(done),
    )
    write_json(folder / REPORT_NAME, report.model_dump(mode="json"), private=True)
    return report


def read_study(folder: Path) -> StudyReport:
    """Read the results of a study.

    Raises:
        DataError: the file is missing or does not have the expected fields.
    """
    return read_model(StudyReport, folder / REPORT_NAME, role="study", remedy="Run the study again.")
