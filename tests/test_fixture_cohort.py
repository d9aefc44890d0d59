"""The drawn cohort is a real cohort: it opens, and no patient stands in two splits."""

from pipeline.artifacts.cohort import Cohort
from pipeline.records import CohortRef


def test_drawn_cohort_opens_and_splits_by_patient(tiny_cohort: CohortRef) -> None:
    cohort = Cohort(tiny_cohort.path)
    table = cohort.records()
    assert (table.groupby("patient_id")["split"].nunique() == 1).all()
    images = cohort.images(cohort.rows("train"))
    assert images.shape[1:] == (1, 32, 32)
    assert -1 <= images.min() < images.max() <= 1
