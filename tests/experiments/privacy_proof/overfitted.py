"""A model overfitted on purpose fails the gate and nothing of it comes out; the recipe's own does not fail.

`python -m tests.experiments.privacy_proof.overfitted [MANIFEST] [OUT] [size=28] [minutes=10] [scans=200]
[per_class=640] [halves=50] [seeds=1] [models=overfitted,healthy]` trains on so few scans for so long, without
the recipe's augmentation, audits candidates together with the checkpoint, asks for a release under both
policies, and counts in how many draws of half the candidates the tests of the set end alike. The healthy
model is the recipe's own of the whole cohort, which may not FAIL. Each is made once a generator seed, from 1.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.privacy_report import PrivacyReport, read_privacy_report
from pipeline.privacy import run_audit
from pipeline.privacy.audited_set import open_audited
from pipeline.privacy.membership.attack import COMBINED
from pipeline.privacy.search.references import search_images
from pipeline.privacy.settings import AuditSettings
from pipeline.recipe import Recipe
from pipeline.records import CandidatesRef, CohortRef, Verdict
from pipeline.sample import run_sample
from pipeline.train import run_train
from tests.experiments.privacy_proof.command import Call, called
from tests.experiments.privacy_proof.selection import few_train_scans
from tests.experiments.privacy_proof.set_tests import SetTests

REFUSED = 4
HEALTHY = "healthy"
MEMORISING = "train.augment=0"
"""What makes the recipe memorise few scans: each is seen as it is, every time."""
LEAST_ALIKE = 0.9
LEAST_BOUND = 0.5
"""Lower bound of epsilon from which the attack on an overfitted model counts as clearly positive."""


def main() -> int:
    """Print what the gate says of each model; the exit code is 1 where it should say something else."""
    call = called(("scans", "per_class", "halves", "seeds", "models"))
    drawn = call.number("per_class", 640)
    cohort = call.cohort(call.recipe())
    print(f"{call.words}, {call.minutes:g} minutes", flush=True)
    as_expected = True
    for name in call.text("models", "overfitted").split(","):
        if name == HEALTHY:
            own, recipe = cohort, call.recipe(drawn)
        else:
            own, recipe = few_scans(call, cohort), call.recipe(drawn, MEMORISING)
        for seed in range(1, call.number("seeds", 1) + 1):
            folder = model_folder(call, name, seed)
            as_expected &= holds(own, folder, recipe, seed=seed, draws=call.number("halves", 50))
    return 0 if as_expected else 1


def model_folder(call: Call, name: str, seed: int = 1) -> Path:
    """Return where a model, its candidates and their audit are kept."""
    return call.out / f"{name}-{call.size}" / f"seed-{seed}"


def few_scans(call: Call, cohort: CohortRef) -> CohortRef:
    """Return the cohort of few train scans that a model is overfitted on."""
    count = call.number("scans", 200)
    return few_train_scans(Cohort(cohort.path), call.out / f"cohort-{call.size}-{count}", count)


def holds(cohort: CohortRef, folder: Path, recipe: Recipe, *, seed: int, draws: int) -> bool:
    """Train, sample, audit and ask for a release; return whether all is said that should be of this model."""
    checkpoint = run_train(cohort, folder / "checkpoint", recipe.train, seed=seed)
    candidates = run_sample(checkpoint, folder / "candidates", recipe.sample, seed=seed)
    run_audit(
        candidates.path, cohort.path, folder / "audit", recipe.audit, seed=seed, checkpoint=checkpoint.path
    )
    steps, images = checkpoint.counts["steps"], checkpoint.counts["images"]
    epochs, drawn = images / len(Cohort(cohort.path).rows("train")), candidates.counts["candidates"]
    healthy = folder.parent.name.startswith(HEALTHY)
    print(f"\n{folder.parent.name}, seed {seed}: {steps} steps, {epochs:.0f} epochs, {drawn} candidates")
    as_expected = say(read_privacy_report(folder / "audit"), overfitted=not healthy)
    if not healthy:
        as_expected &= all(refused(folder, policy) for policy in ("strict", "research"))
    failed = failing_draws(cohort, candidates, recipe.audit, seed, draws)
    print(f"  tests of the set fail in {failed} of {draws} draws of half the candidates", flush=True)
    return as_expected and max(failed, draws - failed) >= LEAST_ALIKE * draws


def failing_draws(
    cohort: CohortRef, candidates: CandidatesRef, settings: AuditSettings, seed: int, draws: int
) -> int:
    """Return in how many draws of half the candidates any test of the set fails."""
    opened = Cohort(cohort.path)
    tests, audited = SetTests(opened, settings, seed=seed), open_audited(candidates.path, opened)
    labels = audited.table["label"].to_numpy().astype(np.int64)
    images = search_images(audited.take, np.arange(len(labels)), settings.search_size)
    return tests.failing_halves(tests.views.search(images), labels, draws, np.random.default_rng(5))


def say(report: PrivacyReport, *, overfitted: bool) -> bool:
    """Print the verdicts with what they rest on; return whether they are what they should be."""
    print(f"  gate {report.verdict.value}: {'; '.join(report.reasons)}")
    for test in report.tests:
        if test.adjusted_p_value is not None and test.scope == "pooled":
            found = f"{test.statistic} of {test.num_samples}"
            print(f"  {test.name}, {test.view}: {found} in train, adjusted p {test.adjusted_p_value:.2g}")
    print(f"  checkpoint {report.checkpoint_verdict}: {'; '.join(report.checkpoint_reasons)}")
    for attack in report.membership:
        low, high = attack.hit_rate_interval
        print(
            f"  {attack.attack}: AUC {attack.auc:.3f}, found at 1 % error {attack.hit_rate:.1%} "
            f"({low:.1%}-{high:.1%}), p {attack.p_value:.2g}, "
            f"epsilon at least {attack.epsilon_lower_bound:.2f} "
            f"({attack.members} members, {attack.non_members} others)",
            flush=True,
        )
    by_set = any(test.passed is False for test in report.tests)
    by_model = report.checkpoint_verdict is Verdict.FAIL
    if overfitted:
        bound = next(own.epsilon_lower_bound for own in report.membership if own.attack == COMBINED)
        return by_set and by_model and report.verdict is Verdict.FAIL and bound >= LEAST_BOUND
    return report.verdict is not Verdict.FAIL and not by_model


def refused(folder: Path, policy: str) -> bool:
    """Ask the command line for a release; return whether it exits with 4 and leaves nothing."""
    out = folder / f"release-{policy}"
    command = [sys.executable, "-m", "flows.cli.app", "release", str(folder / "candidates")]
    command += ["--audit", str(folder / "audit"), "--out", str(out), "--policy", policy]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    message = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
    print(f"  release under {policy}: exit {done.returncode}, {message}", flush=True)
    return done.returncode == REFUSED and not out.exists()


if __name__ == "__main__":
    sys.exit(main())
