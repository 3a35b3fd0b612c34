"""From the outcomes of many runs to metric cards."""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from unlearn_jax.evaluation import collapse
from unlearn_jax.evaluation import gaps
from unlearn_jax.evaluation import statistics
from unlearn_jax.evaluation.measure import measure
from unlearn_jax.evaluation.measure import Measured
from unlearn_jax.evaluation.measure import Metric
from unlearn_jax.evaluation.measure import METRICS
from unlearn_jax.evaluation.metric_card import is_damaged
from unlearn_jax.evaluation.metric_card import judge
from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.evaluation.outcome import Subsets

RETRAIN, ORIGINAL = 'retrain', 'original'

# Of each method, of each seed, the runs that differ by replicate.
_Runs = dict[str, dict[int, list[Measured]]]


def evaluate(
  outcomes: Sequence[Outcome],
  subsets: Mapping[int, Subsets],
  provenance: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[MetricCard]:
  """Compares every method with retraining, paired by seed.

  Args:
    outcomes: of any number of methods and seeds. Those of 'retrain' are the
      reference: their mean over replicates is the ideal, the differences
      between replicates of a seed are the noise floor. Without them there are
      no ideals and no verdicts.
    subsets: of each seed.
    provenance: of each method, what goes into its cards besides method, seeds
      and forget sets.

  Returns:
    cards in the order of the methods, and in each of `METRICS`.
  """
  runs: _Runs = {}
  for outcome in outcomes:
    measured = measure(outcome, subsets[outcome.seed])
    by_seed = runs.setdefault(outcome.method, {})
    by_seed.setdefault(outcome.seed, []).append(measured)
  reference = _Reference(runs.get(RETRAIN, {}))
  cards: list[MetricCard] = []
  for method, by_seed in runs.items():
    seeds = sorted(by_seed)
    cards += _cards_of_method(
      method,
      {seed: by_seed[seed] for seed in seeds},
      reference,
      {
        'method': method,
        'seeds': seeds,
        'forget_hashes': [subsets[seed].forget_hash for seed in seeds],
        **(provenance or {}).get(method, {}),
      },
    )
  return cards


class _Reference:
  """Retrained models: ideals by seed, and noise floors."""

  def __init__(self, runs: dict[int, list[Measured]]):
    self.values = {seed: _mean_values(group) for seed, group in runs.items()}
    self._groups = {
      seed: [measured.values for measured in group]
      for seed, group in runs.items()
    }

  def of(self, name: str, seeds: Sequence[int]) -> np.ndarray:
    """Returns the ideal of each seed, nan where there is none."""
    return np.array([self.values.get(s, {}).get(name, np.nan) for s in seeds])

  def floor(self, name: str) -> float:
    """Returns the noise floor of a metric."""
    if name == 'average_gap':
      pairs = [self.gaps_between_replicates(seed) for seed in self._groups]
      found = [gap for group in pairs for gap in group]
      return float(np.percentile(found, 95)) if found else math.nan
    groups = self._groups.values()
    return statistics.noise_floor(
      [values.get(name, math.nan) for values in group] for group in groups
    )

  def gaps_between_replicates(self, seed: int) -> list[float]:
    """Returns the average gap of each pair of retrained models of a seed."""
    pairs = itertools.combinations(self._groups[seed], 2)
    return [gaps.average_gap(a, b) for a, b in pairs]


def _mean_values(group: Sequence[Measured]) -> dict[str, float]:
  names = group[0].values
  return {n: float(np.mean([m.values[n] for m in group])) for n in names}


def _values_of_seed(method, seed, group, reference) -> dict[str, float]:
  """Returns the metrics of a method for one seed, mean over replicates."""
  values = _mean_values(group)
  ideal = reference.values.get(seed)
  if ideal is None:
    return values
  if method == RETRAIN:
    between = reference.gaps_between_replicates(seed)
    values['average_gap'] = float(np.mean(between)) if between else math.nan
  else:
    values['average_gap'] = gaps.average_gap(values, ideal)
  if method != ORIGINAL and values.get('cost.run_s', 0) > 0:
    values['cost.rte'] = ideal['cost.run_s'] / values['cost.run_s']
  return values


def _cards_of_method(method, by_seed, reference, provenance):
  seeds = list(by_seed)
  values = [
    _values_of_seed(method, seed, group, reference)
    for seed, group in by_seed.items()
  ]
  collapsed = any(
    collapse.is_collapsed(
      measured.test_labels,
      measured.test_predictions,
      retrain_excess=reference.values.get(seed, {}).get('collapse.excess'),
    )
    for seed, group in by_seed.items()
    for measured in group
  )
  rows = {}
  for name, metric in METRICS.items():
    numbers = np.array([v.get(name, np.nan) for v in values])
    if np.isnan(numbers).all() and name not in values[0]:
      continue  # Not measured: no reference, or no forgotten classes.
    sizes = [group[0].sizes.get(metric.examples) for group in by_seed.values()]
    size = None if None in sizes else float(np.mean(sizes))
    ideal = _ideal(metric, reference.of(name, seeds), size)
    rows[name] = _Row(metric, numbers, size, ideal, reference.floor(name))
  utilities = {
    name: (row.value.mean, _triple(row.ideal), row.floor)
    for name, row in rows.items()
    if row.metric.is_utility
  }
  damaged = is_damaged(collapsed, utilities)
  return [
    _card(name, row, collapsed, damaged, provenance)
    for name, row in rows.items()
  ]


@dataclasses.dataclass(frozen=True, eq=False)
class _Row:
  metric: Metric
  numbers: np.ndarray  # Of each seed.
  size: float | None
  ideal: statistics.Interval
  floor: float

  @property
  def value(self) -> statistics.Interval:
    return _interval(self.metric, self.numbers, self.size)


def _interval(metric, numbers, size) -> statistics.Interval:
  """Over seeds; of a single seed over its examples, where it is a share."""
  interval = statistics.t_interval(numbers)
  if len(numbers) == 1 and metric.is_share and size:
    return statistics.wilson_interval(interval.mean, round(size))
  return interval


def _ideal(metric, of_retrain, size) -> statistics.Interval:
  if metric.ideal == 'retrain':
    return _interval(metric, of_retrain, size)
  value = 0.0 if metric.ideal == 'theory' else math.nan
  return statistics.Interval(value, math.nan, math.nan, 'none')


def _triple(interval):
  return interval.mean, interval.low, interval.high


def _card(name, row, collapsed, damaged, provenance) -> MetricCard:
  metric, value, ideal = row.metric, row.value, row.ideal
  verdict, over = judge(
    value.mean,
    _triple(ideal),
    row.floor,
    direction=metric.direction,
    forgotten=metric.forgotten,
    damaged=damaged,
  )
  undefined = int(np.isnan(row.numbers).sum())
  notes = []
  if undefined:
    notes.append(f'undefined for {undefined} of {len(row.numbers)} seeds')
  if len(row.numbers) == 1:
    notes.append('one seed')
  return MetricCard(
    name=name,
    version=metric.version,
    value=value.mean,
    ci_low=value.low,
    ci_high=value.high,
    ci_method=value.method,
    n_seeds=len(row.numbers) - undefined,
    n_examples=row.size,
    values=tuple(float(x) for x in row.numbers),
    ideal=ideal.mean,
    ideal_kind='none' if math.isnan(ideal.mean) else metric.ideal,
    ideal_ci_low=ideal.low,
    ideal_ci_high=ideal.high,
    direction=metric.direction,
    gap=value.mean - ideal.mean,
    noise_floor=row.floor,
    over_unlearned=over,
    collapsed=collapsed,
    verdict=verdict,
    notes=tuple(notes),
    provenance=provenance,
  )
