"""What every metric gives back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ApResult:
    """What a metric found. Fractions in [0, 1] are floats, NaN where undefined; counts are ints.

    stats      name → value over all classes
    per_class  class → column → value; every class has the same columns
    precision  (T, R, K) COCO's at IoU thresholds .5, .55 … .95 and recalls 0, .01 … 1, NaN for a
               class without objects: their mean is AP. None from metrics that have no such array
    """

    stats: dict[str, float]
    per_class: dict[str, dict[str, float]]
    precision: NDArray[np.float64] | None = field(default=None, compare=False, repr=False)


def mean_of(values: NDArray[np.float64]) -> float:
    """Mean of what is defined; NaN where nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
