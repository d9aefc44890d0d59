"""KID and FID with 95 % intervals and floors, on the very sets that an evaluation drew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.evaluation_report import Estimate
from pipeline.artifacts.release import ReleasedImages
from pipeline.evaluate.fidelity.distances import Z95, fid, kid
from pipeline.evaluate.fidelity.encoder import cohort_encoder
from pipeline.evaluate.fidelity.features import real_features, released_features
from pipeline.evaluate.fidelity.measure import FeatureSet, draw_scopes
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.truth import patient_numbers

BLOCKS = 20


@dataclass(frozen=True)
class ScopeFigures:
    """KID and FID of one scope (`all` or a class), each with its real-vs-real floor at the same sizes."""

    scope: str
    kid: Estimate
    kid_floor: Estimate
    fid: Estimate
    fid_floor: Estimate

    @property
    def words(self) -> str:
        """The figures in words."""
        return (
            f"{self.scope}: KID {interval(self.kid)}, floor {interval(self.kid_floor)}; "
            f"FID {interval(self.fid)}, floor {interval(self.fid_floor)}; n {self.kid.n}"
        )


def interval(estimate: Estimate) -> str:
    """Return a value with its 95 % interval in words."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def measure_scopes(
    cohort: Cohort, released: ReleasedImages, settings: EvaluateSettings, seed: int
) -> list[ScopeFigures]:
    """Measure released images by class and over all, on the draws of the evaluation with this run seed."""
    encoder, patients = cohort_encoder(cohort, settings), patient_numbers(cohort)
    synthetic = released_features(encoder, released)
    val, train = (real_features(encoder, cohort, split, patients) for split in ("val", "train"))
    scopes, _ = draw_scopes(
        synthetic,
        val,
        train,
        cohort.info.classes,
        rng=np.random.default_rng([seed, 0]),
    )
    rng = np.random.default_rng([seed, 3])
    return [
        ScopeFigures(
            scope.name,
            _kid(scope.synthetic, scope.val),
            _kid(scope.train, scope.val),
            fid_estimate(scope.synthetic, scope.val, rng),
            fid_estimate(scope.train, scope.val, rng),
        )
        for scope in scopes
    ]


def _kid(x: FeatureSet, y: FeatureSet) -> Estimate:
    return kid(x.features, y.features, x_groups=x.groups, y_groups=y.groups)


def fid_estimate(x: FeatureSet, y: FeatureSet, rng: np.random.Generator) -> Estimate:
    """Return FID with the two-sample delete-a-block jackknife interval, patients kept together.

    Blocks, as leaving out one image at a time would take thousands of matrix roots; a bootstrap would draw
    images twice, which FID takes for less variety. The value keeps its bias: compare it with its floor.
    """
    value = fid(x.features, y.features)
    variance = 0.0
    for left_out, other, swapped in ((x, y, False), (y, x, True)):
        blocks = _blocks(left_out.groups, rng)
        numbers = np.unique(blocks)
        if len(numbers) < 2:
            return Estimate(value=value, n=len(x.labels))
        values = []
        for block in numbers:
            kept = left_out.features[blocks != block]
            values.append(fid(other.features, kept) if swapped else fid(kept, other.features))
        count = len(values)
        variance += (count - 1) / count * float(np.square(np.array(values) - np.mean(values)).sum())
    half = Z95 * float(np.sqrt(variance))
    return Estimate(value=value, low=value - half, high=value + half, n=len(x.labels))


def _blocks(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a block number (n,) for each image: patients dealt out at random into equal blocks."""
    codes = np.unique(groups, return_inverse=True)[1]
    return (rng.permutation(int(codes.max()) + 1) % BLOCKS)[codes]
