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


def bca_interval(values: np.ndarray, *, seed: int = 0) -> Interval:
  """BCa bootstrap interval of a mean, for skewed values such as ratios.

  Args:
    values: [n]; nan is left out. Fewer than two, or all equal, give an interval
      of no width or none.
    seed: of the 10,000 resamples.
  """
  values = np.asarray(values, np.float64)
  values = values[~np.isnan(values)]
  if len(values) < 2 or not np.ptp(values):
    return t_interval(values)
  low, high = scipy.stats.bootstrap(
    (values,),
    np.mean,
    confidence_level=_CONFIDENCE,
    n_resamples=10_000,
    method='BCa',
    rng=np.random.default_rng(seed),
    batch=1_000,
  ).confidence_interval
  return Interval(float(values.mean()), float(low), float(high), 'bca')


class PairedComparison(NamedTuple):
  """How two methods differ over the same seeds.

  Attributes:
    difference: mean of the first minus the second, with its t interval.
    p_t: of the paired t test, two-sided.
    p_sign_flip: of the exact sign-flip test, two-sided. Five seeds never reach
      0.05, six can.
  """

  difference: Interval
  p_t: float
  p_sign_flip: float


def compare_paired(first: np.ndarray, second: np.ndarray) -> PairedComparison:
  """Compares values of two methods on the same seeds.

  Args:
    first: [seeds], at least two; pairs with a nan are left out.
    second: [seeds].

  Returns:
    p of 1 where the differences are all 0; where they are all equal and not 0,
    a p of 0 of the t test.

  Raises:
    ValueError: if the numbers of seeds differ, or fewer than two pairs are
      left.
  """
  differences = _differences(first, second)
  if len(differences) < 2:
    raise ValueError(
      f'a comparison needs 2 seeds of both methods, got {len(differences)}.'
    )
  interval = t_interval(differences)
  error = scipy.stats.sem(differences)
  if not error:
    p_t = float(interval.mean == 0)
  else:  # SciPy's own test warns of differences that are nearly equal.
    t = abs(interval.mean) / error
    p_t = float(2 * scipy.stats.t.sf(t, len(differences) - 1))
  flipped = scipy.stats.permutation_test(
    (differences,), np.mean, permutation_type='samples', n_resamples=10_000
  )
  return PairedComparison(interval, p_t, float(flipped.pvalue))


def _differences(first, second):
  """Returns paired differences without nan, or raises a ValueError."""
  first, second = np.asarray(first, float), np.asarray(second, float)
  if first.shape != second.shape:
    raise ValueError(
      f'the methods must have the same seeds, got {len(first)} and '
      f'{len(second)}.'
    )
  differences = first - second
  return differences[~np.isnan(differences)]


def equivalence_p(
  first: np.ndarray, second: np.ndarray, margin: float
) -> float:
  """Two one-sided t tests: is the mean paired difference within a margin?

  A small p says that it is. That a difference is not significant says nothing
  of the kind.

  Args:
    first: [seeds]; pairs with a nan are left out.
    second: [seeds].
    margin: > 0, either way.

  Returns:
    the larger p of the two tests; nan for fewer than two pairs. Where the
    differences are all equal, 0 or 1.

  Raises:
    ValueError: if the numbers of seeds differ, or the margin is not positive.
  """
  if not margin > 0:
    raise ValueError(f'margin must be > 0, got {margin}.')
  differences = _differences(first, second)
  if len(differences) < 2:
    return float('nan')
  mean, error = differences.mean(), scipy.stats.sem(differences)
  if not error:
    return float(abs(mean) >= margin)
  t = (margin - abs(mean)) / error
  return float(scipy.stats.t.sf(t, len(differences) - 1))


def holm(p_values: np.ndarray) -> np.ndarray:
  """Returns Holm's adjusted p-values [n], for n comparisons at once.

  Args:
    p_values: [n] in [0, 1].
  """
  p_values = np.asarray(p_values, np.float64)
  order = np.argsort(p_values)
  steps = p_values[order] * np.arange(len(p_values), 0, -1)
  adjusted = np.empty_like(p_values)
  adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
  return adjusted
