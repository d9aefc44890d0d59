"""Names of the array types that many files take and return."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

Codes = Ints
"""(N,) the number of the group that each row belongs to: a patient, a class, copies of one another."""
