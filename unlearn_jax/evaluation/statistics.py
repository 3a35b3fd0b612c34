"""Intervals, and the noise floor between runs that should agree."""

from collections.abc import Iterable, Sequence
import itertools
from typing import NamedTuple

import numpy as np
import scipy.stats

_CONFIDENCE = 0.95


class Interval(NamedTuple):
  """A mean and its 95 percent interval; nan bounds where there is none."""

  mean: float
  low: float
  high: float
  method: str


def t_interval(values: np.ndarray) -> Interval:
  """Student's t interval of the mean; none for fewer than two values.

  Args:
    values: [n]; nan is left out.
  """
  values = np.asarray(values, np.float64)
  values = values[~np.isnan(values)]
  nan = float('nan')
  if not len(values):
    return Interval(nan, nan, nan, 'none')
  mean = float(values.mean())
  if len(values) == 1:
    return Interval(mean, nan, nan, 'none')
  error = scipy.stats.sem(values)
  half = float(scipy.stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1))
  half *= float(error)
  return Interval(mean, mean - half, mean + half, 't')


def wilson_interval(share: float, count: int) -> Interval:
  """Wilson's interval of a share of `count` examples.

  Args:
    share: in [0, 1]; nan gives nan.
    count: of examples; 0 gives no interval.
  """
  if np.isnan(share) or count < 1:
    return Interval(share, float('nan'), float('nan'), 'none')
  test = scipy.stats.binomtest(round(share * count), count)
  low, high = test.proportion_ci(_CONFIDENCE, method='wilson')
  return Interval(share, float(low), float(high), 'wilson')


def noise_floor(groups: Iterable[Sequence[float]]) -> float:
  """95th percentile of the absolute differences within groups.

  Args:
    groups: values of runs that differ in nothing but their random seed; nan
      where no group holds two values.
  """
  differences = [
    abs(float(a) - float(b))
    for group in groups
    for a, b in itertools.combinations(group, 2)
    if not (np.isnan(a) or np.isnan(b))
  ]
  return float(np.percentile(differences, 95)) if differences else float('nan')
