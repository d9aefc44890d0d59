"""Canaries: scans put into train once, 10 and 100 times are found the more, the more often they stand there.

`python -m tests.experiments.privacy_proof.canaries [MANIFEST] [OUT] [size=28] [minutes=10] [each=20]` takes
scans of val patients as canaries, trains on the cohort with them, and attacks the model and its images. As
many more val scans stay out of train: what is printed is how well each group is told from those.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from models.privacy.pca import principal_components
from pipeline.arrays import Floats, Ints
from pipeline.artifacts.checkpoint import load_denoiser
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.conditions import CohortConditions, asked_conditions
from pipeline.privacy.audited_set import AuditedSet, open_audited
from pipeline.privacy.membership.attack import (
    COMBINED,
    Attacker,
    Groups,
    Scores,
    audit_groups,
    checkpoint_scores,
)
from pipeline.privacy.membership.release_attack import release_scores
from pipeline.privacy.search.references import load_references, search_images
from pipeline.privacy.search.views import COMPONENT_NOISE
from pipeline.privacy.settings import AuditSettings
from pipeline.sample import run_sample
from pipeline.train import run_train
from tests.experiments.privacy_proof.command import called
from tests.experiments.privacy_proof.selection import with_canaries

TIMES = (1, 10, 100)


def main() -> int:
    """Print the groups; the exit code is 1 where more copies are not found better by the combined attack."""
    call = called(("each",))
    recipe, each = call.recipe(), call.number("each", 20)
    whole = Cohort(call.cohort(recipe).path)
    chosen, times = pick(whole, each)
    made = with_canaries(whole, call.out / f"cohort-{call.size}-canaries", chosen, times)
    folder = call.out / f"canaries-{call.size}"
    checkpoint = run_train(made, folder / "checkpoint", recipe.train, seed=1)
    candidates = run_sample(checkpoint, folder / "candidates", recipe.sample, seed=1)
    print(f"{call.words}, {call.minutes:g} minutes", flush=True)

    # The attacks read scans of the whole cohort; who stands in train is known from `times`.
    groups = audit_groups(whole, recipe.audit.membership.known_scans, np.random.default_rng([1, 3]))
    groups = Groups(chosen[times > 0], chosen[times == 0], groups.known_inside, groups.known_outside)

    def told(scores: Scores) -> dict[str, Floats]:
        return Attacker(whole, groups, scores, np.random.default_rng([1, 4])).by_attack(chosen)

    by_model = told(model_scores(whole, groups, checkpoint.path, recipe.audit))
    drawn = open_audited(candidates.path, Cohort(made.path))
    by_release = told(image_scores(whole, groups, drawn, recipe.audit))
    by_release["release_combined"] = by_release.pop(COMBINED)
    print("\n| attack | " + " | ".join(f"{n} times" for n in TIMES) + " |\n" + "|---" * 4 + "|")
    never, rising = times == 0, True
    for name, own in (by_model | by_release).items():
        values = []
        for number in TIMES:
            group = never | (times == number)
            values.append(float(roc_auc_score((times[group] > 0).astype(int), own[group])))
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |", flush=True)
        if name == COMBINED:
            rising = values[0] <= values[1] <= values[2] and values[2] > values[0]
    print(f"\nAUC of {each} canaries each against {int(never.sum())} scans of val that were never trained on")
    return 0 if rising else 1


def model_scores(whole: Cohort, groups: Groups, checkpoint: Path, settings: AuditSettings) -> Scores:
    """Score the groups' scans by every attack on the model."""
    denoiser, info = load_denoiser(checkpoint)
    conditions = CohortConditions(whole, asked_conditions(info.conditions))

    def read(rows: Ints) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(whole.images(rows)), torch.from_numpy(conditions.codes(rows))

    return checkpoint_scores(
        denoiser, groups.every, read, settings.membership, title="attack on the checkpoint"
    )


def image_scores(whole: Cohort, groups: Groups, drawn: AuditedSet, settings: AuditSettings) -> Scores:
    """Score the groups' scans by the images that come closest; components know no canary."""
    references = load_references(whole, settings, np.random.default_rng([1, 1]))
    components = principal_components(references.images, COMPONENT_NOISE)
    images = search_images(drawn.take, np.arange(len(drawn.table)), settings.search_size)
    scans = search_images(whole.take, groups.every, settings.search_size)
    return release_scores(groups.every, scans, images, components, settings)


def pick(cohort: Cohort, each: int) -> tuple[Ints, Ints]:
    """Return val scans (n,), one a patient, and how often each is to stand in train, most of them never."""
    rng = np.random.default_rng(11)
    rows = rng.permutation(cohort.rows("val"))
    _, first = np.unique(cohort.records()["patient_id"].to_numpy()[rows], return_index=True)
    rows = rows[np.sort(first)]
    times = np.repeat(np.array([*TIMES, 0]), [each] * len(TIMES) + [5 * each])[: len(rows)]
    return rows[: len(times)], times


if __name__ == "__main__":
    sys.exit(main())
