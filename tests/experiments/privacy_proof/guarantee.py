"""What a differentially private training guarantees, against a second library and against an attack.

`python -m tests.experiments.privacy_proof.guarantee [MANIFEST] [OUT] [epsilon=8] [steps=150]` trains on the
phantom cohort, whatever the manifest, and audits the checkpoint. The epsilon that it states is held against
the same accountant of dp-accounting, and against the lower bound that each membership attack gives. How far
that bound can rise is shown by the model overfitted on purpose, where the same attack is tried.
"""

from __future__ import annotations

import sys
from pathlib import Path

from opacus.accountants import RDPAccountant

from pipeline.artifacts.checkpoint import read_checkpoint_info
from pipeline.artifacts.guarantee import DifferentialPrivacy
from pipeline.artifacts.privacy_report import read_privacy_report
from pipeline.ingest import run_ingest
from pipeline.manifest import load_manifest
from pipeline.privacy import run_audit
from pipeline.recipe import load_recipe
from pipeline.sample import run_sample
from pipeline.train import run_train
from tests.experiments.benchmarks.machine import describe
from tests.experiments.privacy_proof.command import called

MANIFEST = Path("data_manifests/phantom.yaml")
TOLERANCE = 0.01


def main() -> int:
    """Print the guarantee and what was attacked; the exit code is 1 where they do not fit together."""
    call = called(("epsilon", "steps"))
    epsilon, steps = float(call.text("epsilon", "8")), call.number("steps", 150)
    recipe = load_recipe(
        "cpu",
        [
            f"train.dp.epsilon={epsilon:g}",
            f"train.num_steps={steps}",
            "train.max_minutes=null",
            # What a guarantee of each patient does not allow: scans of rare classes drawn more often.
            "train.class_balance=0",
            "sample.per_class=60",
            "audit.embedding_steps=100",
        ],
    )
    folder = call.out / f"guarantee-{epsilon:g}-{steps}"
    cohort = run_ingest(load_manifest(MANIFEST), call.out / "cohort-phantom", recipe.ingest)
    checkpoint = run_train(cohort, folder / "checkpoint", recipe.train, seed=1)
    candidates = run_sample(checkpoint, folder / "candidates", recipe.sample, seed=1)
    run_audit(
        candidates.path, cohort.path, folder / "audit", recipe.audit, seed=1, checkpoint=checkpoint.path
    )
    found = read_checkpoint_info(checkpoint.path).differential_privacy
    assert found is not None
    print(f"machine: {describe()}; {MANIFEST.stem}, {steps} steps")
    other = of_second_library(found)
    print(
        f"{found.words}; noise multiplier {found.noise_multiplier:.3f}, sample rate {found.sample_rate:.4f}; "
        f"dp-accounting: {other:.4f} against {found.epsilon:.4f}"
    )
    fits = abs(found.epsilon / other - 1) <= TOLERANCE
    report = read_privacy_report(folder / "audit")
    print(f"gate {report.verdict.value}; checkpoint {report.checkpoint_verdict}")
    for attack in report.membership:
        print(
            f"  {attack.attack}: AUC {attack.auc:.3f}, p {attack.p_value:.2g}, epsilon at least "
            f"{attack.epsilon_lower_bound:.2f} ({attack.correct} of {attack.guesses} guesses right)"
        )
        fits &= attack.epsilon_lower_bound <= found.epsilon
    return 0 if fits else 1


def of_second_library(found: DifferentialPrivacy) -> float:
    """Return epsilon of the same training by dp-accounting's Renyi accountant."""
    import dp_accounting

    event = dp_accounting.PoissonSampledDpEvent(
        found.sample_rate, dp_accounting.GaussianDpEvent(found.noise_multiplier)
    )
    accountant = dp_accounting.rdp.RdpAccountant(orders=RDPAccountant.DEFAULT_ALPHAS)
    return float(accountant.compose(event, found.num_steps).get_epsilon(found.delta))


if __name__ == "__main__":
    sys.exit(main())
