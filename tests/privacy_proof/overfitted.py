"""A model overfitted on purpose fails the gate and nothing of it comes out; the recipe's own does not fail.

`python -m tests.privacy_proof.overfitted [MANIFEST] [OUT] [size=28] [minutes=10] [scans=200] [per_class=640]
[draws=50] [healthy=1]` trains on so few scans for so long, audits candidates together with the checkpoint,
asks for a release under both policies, and counts in how many draws of half the candidates the tests of the
set end alike. `healthy=1` does the same with a model of the whole cohort, which may not FAIL.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from pipeline.cohort import Cohort
from pipeline.ingest import run_ingest
from pipeline.manifest import load_manifest
from pipeline.privacy import run_audit
from pipeline.privacy.dataset_test import Plan, holm, run_tests
from pipeline.privacy.embedding_cache import cohort_embedding
from pipeline.privacy.foreign import open_audited
from pipeline.privacy.gate import isolation_cut, tune
from pipeline.privacy.references import load_references, search_images
from pipeline.privacy.settings import AuditSettings
from pipeline.privacy.views import VIEWS, Views
from pipeline.privacy_report import PrivacyReport, read_privacy_report
from pipeline.recipe import load_recipe
from pipeline.records import CandidatesRef, CohortRef, Verdict
from pipeline.sample import run_sample
from pipeline.train import run_train
from tests.benchmarks.machine import describe
from tests.privacy_proof.selection import few_train_scans

REFUSED = 4


def main() -> int:
    """Print what the gate says of each model; the exit code is 1 where it should say something else."""
    words = [word for word in sys.argv[1:] if "=" not in word]
    options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    manifest = Path(words[0] if words else "data_manifests/pneumoniamnist.yaml")
    out = Path(words[1] if len(words) > 1 else "runs/privacy-proof")
    size, minutes, scans = (
        options.get("size", "28"),
        options.get("minutes", "10"),
        options.get("scans", "200"),
    )
    fixed = [f"ingest.image_size={size}", f"train.max_minutes={minutes}", "train.num_steps=1000000"]
    recipe = load_recipe("cpu", [*fixed, f"sample.per_class={options.get('per_class', '640')}"])
    cohort = run_ingest(load_manifest(manifest), out / f"cohort-{size}", recipe.ingest)
    print(f"machine: {describe()}; {manifest.stem} at {size}x{size}, {minutes} minutes", flush=True)
    few = few_train_scans(Cohort(cohort.path), out / f"cohort-{size}-{scans}", int(scans))
    models = {"overfitted": few} | ({"healthy": cohort} if options.get("healthy") == "1" else {})
    as_expected = True
    for name, own in models.items():
        folder = out / f"{name}-{size}"
        checkpoint = run_train(own, folder / "checkpoint", recipe.train, seed=1)
        candidates = run_sample(checkpoint, folder / "candidates", recipe.sample, seed=1)
        run_audit(
            candidates.path, own.path, folder / "audit", recipe.audit, seed=1, checkpoint=checkpoint.path
        )
        report = read_privacy_report(folder / "audit")
        steps, images = checkpoint.counts["steps"], checkpoint.counts["images"]
        epochs = images / len(Cohort(own.path).rows("train"))
        print(f"\n{name}: {steps} steps, {epochs:.0f} epochs, {len_of(candidates)} candidates", flush=True)
        as_expected &= say(report, overfitted=name == "overfitted")
        if name == "overfitted":
            as_expected &= all(refused(folder, policy) for policy in ("strict", "research"))
        failed = draws_that_fail(own, candidates, recipe.audit, int(options.get("draws", "50")))
        print(
            f"the set's tests fail in {failed.sum()} of {len(failed)} draws of half the candidates",
            flush=True,
        )
    return 0 if as_expected else 1


def len_of(candidates: CandidatesRef) -> int:
    """Return how many candidates there are."""
    return candidates.counts["candidates"]


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
        return by_set and by_model and report.verdict is Verdict.FAIL
    return report.verdict is not Verdict.FAIL and not by_model


def refused(folder: Path, policy: str) -> bool:
    """Ask the command line for a release; return whether it exits with 4 and leaves nothing."""
    out = folder / f"release-{policy}"
    command = [sys.executable, "-m", "flows.cli", "release", str(folder / "candidates")]
    command += ["--audit", str(folder / "audit"), "--out", str(out), "--policy", policy]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    message = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
    print(f"  release under {policy}: exit {done.returncode}, {message}", flush=True)
    return done.returncode == REFUSED and not out.exists()


def draws_that_fail(
    cohort: CohortRef, candidates: CandidatesRef, settings: AuditSettings, draws: int
) -> np.ndarray:
    """Return for each draw of half the candidates whether any test of the set fails (draws,)."""
    opened = Cohort(cohort.path)
    references = load_references(opened, settings, np.random.default_rng([1, 1]))
    views = Views(references, cohort_embedding(opened, references, settings), settings)
    tuned = tune(views)
    audited = open_audited(candidates.path, opened)
    labels = audited.table["label"].to_numpy().astype(np.int64)
    found = views.search(search_images(audited.take, np.arange(len(labels)), settings.search_size))
    plan = Plan(settings.depths, settings.null_draws, references.holdout_share)
    classes = {name: opened.info.classes.index(name) for name in audited.asked}
    cut = {view: isolation_cut(tuned.calibration, view) for view in VIEWS}
    rng, failed = np.random.default_rng(5), []
    for _ in range(draws):
        rows = np.sort(rng.permutation(len(labels))[: len(labels) // 2])
        part = found.take(rows).views
        tests = run_tests(part, labels[rows], classes, plan, control=tuned.pseudo.views, cut=cut)
        failed.append(min(holm([test.p_value for test in tests])) < settings.significance)
    return np.array(failed)


if __name__ == "__main__":
    sys.exit(main())
