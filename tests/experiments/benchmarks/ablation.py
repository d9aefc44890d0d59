"""What each choice of the generator brings at equal training time: three seeds, judged on validation only.

`python -m tests.experiments.benchmarks.ablation [OUT] [minutes=2] [steps=0] [seeds=3] [per_class=480]
[train_scans=0] [only="A;B"] [results=FILE]` makes what is not done yet, seed by seed, and prints one row a
variant, with its difference from the recipe at the same seed. Each variant is the `cpu` recipe, not
augmented, with a few settings changed; those that change nothing in training share one. `train_scans` trains
on so many scans of the train split (drawn evenly over the classes) alone, and has variants of its own. Each
generator's figures go into the results file (results/ablation.json here), so that seeds may be made on
different days. What is equal is time, so that it wants an idle machine; `steps` makes the number of steps
equal instead.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.candidates import Candidates
from pipeline.artifacts.cohort import Cohort
from pipeline.ingest import run_ingest
from pipeline.manifest import load_manifest
from pipeline.recipe import load_recipe
from pipeline.records import SPLITS, CohortRef
from pipeline.sample import run_sample
from pipeline.storage import digest_of, read_json, write_json
from pipeline.train import run_train
from tests.experiments.benchmarks.judging import Judge, spread
from tests.experiments.benchmarks.machine import describe

MANIFEST = Path("data_manifests/pneumoniamnist.yaml")
HEAD = (
    "| variant | steps | KID to val | over recipe | FID to val | synthetic-only val AUC | over recipe "
    "| read as intended |"
)
RESULTS = Path(__file__).with_name("results") / "ablation.json"


@dataclass(frozen=True)
class Variant:
    """The recipe with a few settings changed; what changes only the sampling samples the same checkpoint."""

    train: tuple[str, ...] = ()
    sample: tuple[str, ...] = ()

    @property
    def settings(self) -> list[str]:
        """All settings that differ from the recipe."""
        return [*self.train, *self.sample]

    @property
    def checkpoint_name(self) -> str:
        """Name of the directory of its checkpoint, the same for variants that train alike."""
        return digest_of(list(self.train))[:12]


PLAIN = "cpu recipe without augmentation"
RECIPE = {PLAIN: Variant()}
GUIDED = ("sample.guidance_scale=1.6", "sample.guidance_low=0.3", "sample.guidance_high=5")
VARIANTS = {
    **RECIPE,
    "AdamW": Variant(("train.optimizer=adamw", "train.learning_rate=2e-3")),
    "fp32": Variant(("train.precision=fp32",)),
    "one pixel a position, 32-64-64": Variant(("train.channels=[32, 64, 64]",)),
    "2x2 pixels, 96-128": Variant(
        ("train.patch_size=2", "train.channels=[96, 128]", "train.attention=[false, true]")
    ),
    "batch of 32": Variant(("train.batch_size=32",)),
    "rectified flow": Variant(
        ("train.parametrisation=flow", "train.sigma_mean=-0.7", "train.sigma_std=1.0"),
        ("sample.sampler=flow_euler", "sample.num_steps=50"),
    ),
    "noisier levels (mean of ln sigma -0.6)": Variant(("train.sigma_mean=-0.6",)),
    "sigma_data of .35": Variant(("train.sigma_data=0.35",)),
    "augmentation told to the network": Variant(("train.augment=0.15",)),
    "augmentation (.3), as the recipe has it": Variant(("train.augment=0.3",)),
    "no learning-rate decay": Variant(("train.learning_rate_decay=none",)),
    "classes as frequent as they are": Variant(("train.class_balance=0.0",)),
    "average of length 0.05": Variant(sample=("sample.ema_length=0.05",)),
    "average of length 0.15": Variant(sample=("sample.ema_length=0.15",)),
    "guidance 1.6": Variant(sample=("sample.guidance_scale=1.6",)),
    "guidance 1.6 for levels of .3 to 5": Variant(sample=GUIDED),
    "augmentation (.3), guidance 1.6 for levels of .3 to 5": Variant(("train.augment=0.3",), GUIDED),
    "autoguidance 1.6": Variant(sample=("sample.guidance_scale=1.6", "sample.autoguide=0.25")),
}
FEW_SCANS = {
    **RECIPE,
    "AdamW": VARIANTS["AdamW"],
    "stopped when memorising": Variant(("train.stop_when_memorising=true",)),
    "augmentation told to the network": VARIANTS["augmentation told to the network"],
    "augmentation (.3), as the recipe has it": VARIANTS["augmentation (.3), as the recipe has it"],
    "augmentation, stopped when memorising": Variant(
        ("train.augment=0.15", "train.stop_when_memorising=true")
    ),
}


@dataclass(frozen=True)
class Trial:
    """One generator: steps of its training, and what its images are worth (`judging.Judged`)."""

    steps: int
    kid: float
    fid: float
    auc: float
    agreement: float


class Results:
    """What was judged before, by protocol, variant and seed, in one JSON file."""

    def __init__(self, path: Path, protocol: str) -> None:
        self.path, self.protocol = path, protocol
        self.body: dict[str, Any] = read_json(path, role="ablation results") if path.is_file() else {}

    def get(self, name: str, variant: Variant, seed: int) -> Trial | None:
        """Return the figures of this variant as it is now; None where they are still to be made."""
        found = self.body.get(self.protocol, {}).get(name, {})
        if found.get("settings") != variant.settings or str(seed) not in found["seeds"]:
            return None
        return Trial(**found["seeds"][str(seed)])

    def put(self, name: str, variant: Variant, seed: int, judged: Trial) -> None:
        """Keep one generator's figures; those of a variant whose settings have changed since are dropped."""
        protocol = self.body.setdefault(self.protocol, {})
        if protocol.get(name, {}).get("settings") != variant.settings:
            protocol[name] = {"settings": variant.settings, "seeds": {}}
        protocol[name]["seeds"][str(seed)] = {key: round(value, 6) for key, value in asdict(judged).items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.body)


def main() -> int:
    """Make and judge every variant and seed, then print the table."""
    words = [word for word in sys.argv[1:] if "=" not in word]
    options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    out = Path(words[0] if words else "runs/ablation")
    few, steps = int(options.get("train_scans", 0)), int(options.get("steps", 0))
    minutes = None if steps else float(options.get("minutes", 2))
    per_class = int(options.get("per_class", 480))
    seeds = range(1, int(options.get("seeds", 3)) + 1)
    variants = FEW_SCANS if few else VARIANTS
    names = options["only"].split(";") if "only" in options else list(variants)
    recipe = load_recipe("cpu")
    cohort = run_ingest(load_manifest(MANIFEST), out / "cohort", recipe.ingest)
    trained_on = fewer_scans(cohort, out / f"cohort-{few}", few) if few else cohort
    judge = Judge(Cohort(cohort.path))
    scans = f"{few} train scans" if few else "all train scans"
    length = f"{steps:,} steps" if minutes is None else f"{minutes:g} minutes"
    protocol = f"{scans}, {length}, {per_class} images a class"
    results = Results(Path(options.get("results", RESULTS)), protocol)
    print(f"machine: {describe()}; {protocol}", flush=True)
    for seed in seeds:
        for name in names:
            variant = variants[name]
            if results.get(name, variant, seed) is not None:
                continue
            fixed = [
                f"train.num_steps={steps or 1_000_000}",
                f"train.max_minutes={'null' if minutes is None else minutes}",
                f"sample.per_class={per_class}",
                "sample.overdraw=1",
                # The recipe augments against memorisation, which two minutes do not reach.
                "train.augment=0",
            ]
            settings = load_recipe("cpu", [*fixed, *variant.settings])
            trained = out / f"trained-{few}-{variant.checkpoint_name}" / f"seed-{seed}"
            checkpoint = run_train(trained_on, trained, settings.train, seed=seed)
            made = out / f"{name.replace(' ', '-')}-{few}" / f"seed-{seed}"
            candidates = run_sample(checkpoint, made / "candidates", settings.sample, seed=seed)
            drawn = Candidates(candidates.path)
            worth = judge(drawn.take(np.arange(len(drawn))), drawn.table["label"].to_numpy())
            own = {field: getattr(worth, field) for field in ("kid", "fid", "auc", "agreement")}
            judged = Trial(checkpoint.counts["steps"], **own)
            results.put(name, variant, seed, judged)
            print(f"seed {seed}, {name}: {judged}", flush=True)
    print(HEAD + "\n" + "|---" * HEAD.count(" |") + "|")
    reference = [results.get(PLAIN, variants[PLAIN], seed) for seed in seeds]
    for name in names:
        print(_row(name, [results.get(name, variants[name], seed) for seed in seeds], reference))
    return 0


def fewer_scans(cohort: CohortRef, folder: Path, count: int) -> CohortRef:
    """Write a cohort of `count` train scans, evenly over the classes, as the generator's only data.

    Its val split, which stops a training that memorises, is a quarter as many scans of the holdout: the val
    split of the whole cohort judges what was made.

    Raises:
        ValueError: a class has too few scans.
    """
    from tests.cohorts import write_cohort

    opened = Cohort(cohort.path)
    classes = opened.info.classes
    rng = np.random.default_rng(0)
    rows, split = [], []
    for name, becomes, wanted in (("train", "train", count), ("holdout", "val", count // 4)):
        for label in range(len(classes)):
            found = rng.permutation(opened.rows(name, label))[: wanted // len(classes)]
            if len(found) < wanted // len(classes):
                raise ValueError(f"class {classes[label]} has {len(found)} scans in {name}, too few")
            rows.append(found)
            split.append(np.full(len(found), SPLITS.index(becomes)))
    chosen = np.concatenate(rows)
    return write_cohort(
        folder,
        pixels=opened.take(chosen),
        labels=np.asarray(opened.labels[chosen]),
        classes=classes,
        images_per_patient=1,
        split=np.concatenate(split),
    )


def _row(name: str, results: Sequence[Trial | None], reference: Sequence[Trial | None]) -> str:
    """Return the variant's row: means and sd over seeds, and mean difference from the recipe with its sd."""
    pairs = [(found, recipe) for found, recipe in zip(results, reference, strict=True) if found is not None]

    def own(field: str, digits: int) -> str:
        return spread([float(getattr(found, field)) for found, _ in pairs], digits)

    def over(field: str, digits: int) -> str:
        gains = [
            getattr(found, field) - getattr(recipe, field) for found, recipe in pairs if recipe is not None
        ]
        return spread(gains, digits, "+") if gains and any(gains) else "-"

    cells = [own("steps", 0), own("kid", 3), over("kid", 3), own("fid", 2), own("auc", 4), over("auc", 4)]
    return "| " + " | ".join([name, *cells, own("agreement", 3)]) + " |"


if __name__ == "__main__":
    sys.exit(main())
