"""From the outcomes of many runs to metric cards."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools
import math
from typing import Any

import numpy as np

from unlearn_jax.evaluation import collapse
from unlearn_jax.evaluation import cost
from unlearn_jax.evaluation import gaps
from unlearn_jax.evaluation import measure as measure_lib
from unlearn_jax.evaluation import relearn
from unlearn_jax.evaluation import statistics
from unlearn_jax.evaluation.measure import Measured
from unlearn_jax.evaluation.metric_card import is_damaged
from unlearn_jax.evaluation.metric_card import judge
from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.evaluation.metrics import Metric
from unlearn_jax.evaluation.metrics import metric
from unlearn_jax.evaluation.metrics import METRICS
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import Outcome
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.evaluation.outcome import Subsets

# Of each method, of each seed, the runs that differ by replicate.
_Runs = dict[str, dict[int, list[Measured]]]

_DISTANCES = (*measure_lib.DISTANCES, 'average_gap')

# Jobs write their records after every seed; a run is measured once.
_measure = functools.lru_cache(4_096)(measure_lib.measure)


def make_cards(
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
    cards in the order of the methods, and in each of `metrics.METRICS`.
  """
  runs: _Runs = {}
  for outcome in outcomes:
    measured = _measure(outcome, subsets[outcome.seed])
    by_seed = runs.setdefault(outcome.method, {})
    by_seed.setdefault(outcome.seed, []).append(measured)
  reference = _Reference(runs, subsets)
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
  """Retrained and original models: ideals by seed, and noise floors."""

  def __init__(self, runs: _Runs, subsets: Mapping[int, Subsets]):
    self._subsets = subsets
    self.groups = runs.get(RETRAIN, {})
    self._means = {s: _mean_values(group) for s, group in self.groups.items()}
    self._originals = {
      s: _mean_values(group) for s, group in runs.get(ORIGINAL, {}).items()
    }
    self._between = {  # Of each pair of retrained models of a seed.
      seed: [_distances(a, b) for a, b in itertools.combinations(group, 2)]
      for seed, group in self.groups.items()
    }
    self._each = {
      seed: [self._add_beside(dict(m.values), seed) for m in group]
      for seed, group in self.groups.items()
    }
    self.values = {
      seed: self.values_of(RETRAIN, seed, group)
      for seed, group in self.groups.items()
    }

  def values_of(
    self, method: str, seed: int, group: Sequence[Measured]
  ) -> dict[str, float]:
    """Returns the metrics of a method for one seed, mean over replicates."""
    values, ideal = _mean_values(group), self._means.get(seed)
    if method == RETRAIN:
      unknown = dict.fromkeys(_DISTANCES, math.nan)
      values |= _mean(self._between[seed]) or unknown
    elif ideal is not None:
      pairs = itertools.product(group, self.groups[seed])
      values |= _mean([measure_lib.between(a, b) for a, b in pairs])
      values['average_gap'] = gaps.average_gap(values, ideal)
    run_s = values.get('cost.run_s', 0.0)
    if ideal is not None and method != ORIGINAL and run_s > 0:
      values['cost.rte'] = cost.rte(ideal['cost.run_s'], run_s)
    return self._add_beside(values, seed)

  def _add_beside(self, values, seed):
    """Adds what takes the original or the mean retrained model of a seed."""
    ideal, subsets = self._means.get(seed), self._subsets[seed]
    if ideal is not None and 'relearn.steps' in values:
      steps = values['relearn.steps'], ideal['relearn.steps']
      values['relearn.anamnesis'] = relearn.anamnesis_index(*steps)
    if seed in self._originals:
      values |= measure_lib.beside(
        values,
        ideal,
        self._originals[seed],
        classes=len(subsets.class_names),
        removes_classes=bool(subsets.forgotten_classes),
      )
    return values

  def of(self, name: str, seeds: Sequence[int]) -> np.ndarray:
    """Returns the ideal of each seed, nan where there is none."""
    return np.array([self.values.get(s, {}).get(name, np.nan) for s in seeds])

  def floor(self, name: str) -> float:
    """Returns the noise floor of a metric.

    Of a distance between runs, how far pairs of retrained models spread around
    their mean; an average gap has 0 as its ideal, so it is the pairs
    themselves.
    """
    if not metric(name).is_pairwise:
      return statistics.noise_floor(
        [values.get(name, math.nan) for values in group]
        for group in self._each.values()
      )
    many = self._between if name in _DISTANCES else self._each
    found = np.array(
      [v.get(name, math.nan) for group in many.values() for v in group]
    )
    found = found[~np.isnan(found)]
    if name == 'average_gap':
      return float(np.percentile(found, 95)) if len(found) else math.nan
    if len(np.unique(found)) < 2:  # Of two models, each has the same.
      return math.nan
    return float(np.percentile(np.abs(found - found.mean()), 95))


def _distances(a: Measured, b: Measured) -> dict[str, float]:
  found = measure_lib.between(a, b)
  return {**found, 'average_gap': gaps.average_gap(a.values, b.values)}


def _mean(many: Sequence[Mapping[str, float]]) -> dict[str, float]:
  if not many:
    return {}
  return {name: float(np.mean([v[name] for v in many])) for name in many[0]}


def _mean_values(group: Sequence[Measured]) -> dict[str, float]:
  return _mean([measured.values for measured in group])


def _cards_of_method(method, by_seed, reference, provenance):
  seeds = list(by_seed)
  values = [
    reference.values_of(method, seed, group) for seed, group in by_seed.items()
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
  # Of the others nothing was measured: no reference, or no forgotten classes.
  found = {name for v in values for name in v}
  layers = [name for name in values[0] if name not in METRICS]
  for name in [n for n in METRICS if n in found] + layers:
    row = metric(name)
    numbers = np.array([v.get(name, np.nan) for v in values])
    sizes = [group[0].sizes.get(row.examples) for group in by_seed.values()]
    size = None if None in sizes else float(np.mean(sizes))
    ideal = _ideal(row, reference.of(name, seeds), size)
    rows[name] = _Row(row, numbers, size, ideal, reference.floor(name))
  utilities = {
    name: (row.value.mean, _triple(row.ideal), row.floor)
    for name, row in rows.items()
    if row.metric.is_utility
  }
  damaged = is_damaged(collapsed, utilities)
  notes = {n for group in by_seed.values() for m in group for n in m.notes}
  return [
    _card(name, row, collapsed, damaged, provenance, notes)
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
  value = metric.theory if metric.ideal == 'theory' else math.nan
  return statistics.Interval(value, math.nan, math.nan, 'none')


def _triple(interval):
  return interval.mean, interval.low, interval.high


def _card(name, row, collapsed, damaged, provenance, more) -> MetricCard:
  metric, value, ideal = row.metric, row.value, row.ideal
  known = _triple(ideal)
  if metric.is_pairwise and math.isnan(row.floor):
    known = math.nan, math.nan, math.nan  # One pair is no yardstick.
  verdict, over = judge(
    value.mean,
    known,
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
  if name == 'relearn.steps' and (row.numbers >= relearn.MAX_STEPS).any():
    notes.append(f'not reached within {relearn.MAX_STEPS} steps')
  if name.startswith(('loss.', 'mia.')):
    notes += sorted(more)
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
