"""The headline figures: three generator seeds times five classifier seeds, from whole runs on PneumoniaMNIST.

`python -m tests.benchmarks.headline [OUT]` makes the runs that are not done yet and prints their figures.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.evaluation_report import ArmResult, EvaluationReport, read_evaluation_report
from pipeline.privacy_report import read_privacy_report

MANIFEST = "data_manifests/pneumoniamnist.yaml"
GENERATOR_SEEDS = (1, 2, 3)


def main() -> int:
    """Run what is missing, then print one line a generator seed and the means over all."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/headline")
    folders = [out / f"seed-{seed}" for seed in GENERATOR_SEEDS]
    for seed, folder in zip(GENERATOR_SEEDS, folders, strict=True):
        command = [
            "phosphor",
            "run",
            MANIFEST,
            "--recipe",
            "cpu",
            "--set",
            f"seed={seed}",
            "--out",
            str(folder),
        ]
        subprocess.run([str(Path(sys.executable).with_name(command[0])), *command[1:]], check=True)
    reports = [read_evaluation_report(folder / "evaluation") for folder in folders]
    for seed, folder, report in zip(GENERATOR_SEEDS, folders, reports, strict=True):
        verdict = read_privacy_report(folder / "audit").verdict.value
        print(f"generator seed {seed}: {_line(report)}; gate {verdict}")
    for name in sorted({arm.arm for report in reports for arm in report.arms if arm.test_auc_by_seed}):
        values = [
            value for report in reports for arm in _arms(report, name) for value in arm.test_auc_by_seed
        ]
        mean, spread = statistics.mean(values), statistics.stdev(values)
        print(f"{name}: test AUC {mean:.4f} (sd {spread:.4f}, {_span(values)}, n={len(values)})")
    return 0


def _arms(report: EvaluationReport, name: str) -> list[ArmResult]:
    return [arm for arm in report.arms if arm.arm == name and arm.test_auc_by_seed]


def _line(report: EvaluationReport) -> str:
    synthetic = _arms(report, "synthetic")[0].test_auc_by_seed
    agreement = {name: round(value.value, 3) for name, value in report.label_agreement.items()}
    shuffled = {name: round(value.value, 3) for name, value in report.label_agreement_shuffled.items()}
    whole = next(part for part in report.fidelity if part.scope == "all")
    return (
        f"synthetic-only test AUC {statistics.mean(synthetic):.4f} ({_span(synthetic)}), "
        f"agreement {agreement}, shuffled {shuffled}, "
        f"KID {whole.kid.value:.3f} (floor {whole.kid_floor.value:.3f}), utility {report.utility.verdict}"
    )


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.4f}-{max(values):.4f}"


if __name__ == "__main__":
    sys.exit(main())
