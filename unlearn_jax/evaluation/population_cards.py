"""Metric cards of populations, judged by populations that were retrained.

The null distribution is drawn from models that never saw an example: some stand
for unlearned ones, others for retrained ones, again and again. What a metric
gives there is its ideal, in place of a constant from theory.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from unlearn_jax.evaluation import forgetting_score
from unlearn_jax.evaluation import klom
from unlearn_jax.evaluation import statistics
from unlearn_jax.evaluation.metric_card import beyond
from unlearn_jax.evaluation.metric_card import Direction
from unlearn_jax.evaluation.metric_card import is_damaged
from unlearn_jax.evaluation.metric_card import judge
from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.evaluation.statistics import Interval
from unlearn_jax.evaluation.ulira import LEAST_MEMBERS
from unlearn_jax.evaluation.ulira import ulira
from unlearn_jax.evaluation.ulira import UliraResult
from unlearn_jax.evaluation.worlds import draw
from unlearn_jax.evaluation.worlds import split
from unlearn_jax.evaluation.worlds import Worlds

REPETITIONS = 20
_MOST_EXAMPLES = 1_000  # Of the metrics that go example by example.
_SHARE_WITH_ENOUGH = 0.9

# In the order of the cards; the confidence gap alone has a side of too much.
_DIRECTIONS: dict[str, Direction] = {
  'accuracy.retain': 'higher',
  'accuracy.test': 'higher',
  'ulira.accuracy': 'lower',
  'ulira.auc': 'lower',
  'ulira.tpr_at_1e2': 'lower',
  'ulira.tpr_at_1e3': 'lower',
  'ulira.kde_accuracy': 'lower',
  'klom.mean': 'lower',
  'klom.median': 'lower',
  'klom.p95': 'lower',
  'forgetting_score': 'higher',
  'forgetting_score.final': 'higher',
  'confidence_gap': 'match',
}


def population_cards(
  worlds: Worlds,
  retrained: tuple[np.ndarray, np.ndarray],
  *,
  provenance: Mapping[str, Any],
  utility: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
  collapsed: bool = False,
  repetitions: int = REPETITIONS,
  seed: int = 0,
) -> tuple[list[MetricCard], UliraResult]:
  """Judges a population that unlearned by one that was retrained.

  U-LiRA uses all models; KLoM and the forgetting score depend on how many there
  are, so they draw as many for each side as the null distribution can, and
  again at every repetition.

  Args:
    worlds: the population in question.
    retrained: logit confidences [models, examples] of trained models, and which
      of them never saw which example; the null distribution is drawn from it.
    provenance: of the cards, among it the `method`.
    utility: accuracies by name, of each model that ran the method and of each
      retrained one; `accuracy.retain` and `accuracy.test` give the final score.
    collapsed: whether the models have collapsed.
    repetitions: draws of the models.
    seed: of the draws.

  Returns:
    the cards, whose intervals are over models where they are t intervals, else
    percentiles over draws; and U-LiRA's result.

  Raises:
    ValueError: if the worlds are too small, or do not fit.
  """
  found = _ulira(worlds)
  sizes, columns = _sizes(
    *(x.sum(0) for x in (worlds.in_u, worlds.in_r, retrained[1]))
  )
  draws, null = _draw_all(worlds, retrained, sizes, columns, repetitions, seed)
  rows = {name: _utility(*pair) for name, pair in (utility or {}).items()}
  damaged = is_damaged(
    collapsed,
    {n: (r.value.mean, _triple(r.ideal), r.floor) for n, r in rows.items()},
  )
  values = {
    name: Interval(value, np.nan, np.nan, 'none')
    for name, value in _by_ulira(found, worlds).items()
  }
  values['ulira.accuracy'] = statistics.t_interval(found.model_accuracy())
  values |= {name: _percentiles(many) for name, many in draws.items()}
  for name, value in values.items():
    row = _Row(value, _percentiles(null[name]), _floor(null[name]))
    drawn = f'{sizes[0]} against {sizes[1]} models, {repetitions} draws'
    notes = (drawn,) if name in draws else ()
    rows[name] = dataclasses.replace(row, notes=notes)
  if {'accuracy.retain', 'accuracy.test'} <= set(rows):
    rows['forgetting_score.final'] = _final(rows)
  gap = rows['confidence_gap']
  side = beyond(gap.value.mean, _triple(gap.ideal), gap.floor)
  counts = {
    'n_seeds': len(np.unique(found.model)),
    'n_examples': float(len(np.unique(found.example))),
  }
  cards = [
    _card(name, rows[name], side == 'below', collapsed, damaged, **counts)
    for name in _DIRECTIONS
    if name in rows
  ]
  return [
    dataclasses.replace(c, provenance=dict(provenance)) for c in cards
  ], found


@dataclasses.dataclass(frozen=True)
class _Row:
  value: Interval
  ideal: Interval
  floor: float
  notes: tuple[str, ...] = ()


def _draw_all(worlds, retrained, sizes, columns, repetitions, seed):
  """Returns values of the population and of the null, by name, of each draw."""
  phi, never = retrained
  rng = np.random.default_rng(seed)
  draws: dict[str, list[float]] = {}
  null: dict[str, list[float]] = {}
  for _ in range(repetitions):
    u = draw(worlds.phi_u, worlds.in_u, sizes[0], columns, rng)
    r = draw(worlds.phi_r, worlds.in_r, sizes[1], columns, rng)
    _append(draws, _by_example(u, r))
    both = draw(phi, never, sum(sizes), columns, rng)
    _append(null, _by_example(both[: sizes[0]], both[sizes[0] :]))
    halves = split(phi, never, rng)
    few = Worlds(*(x[:, columns] for x in halves))
    _append(null, _by_ulira(_ulira(halves), few))
  return draws, null


def _utility(own, reference):
  return _Row(
    statistics.t_interval(own),
    statistics.t_interval(reference),
    statistics.noise_floor([reference]),
  )


def _final(rows):
  """Returns the forgetting score times what is kept of both accuracies."""
  score = rows['forgetting_score']
  kept = [rows[f'accuracy.{name}'] for name in ('retain', 'test')]
  ratio = forgetting_score.final_score(
    1.0,
    retain_u=kept[0].value.mean,
    retain_r=kept[0].ideal.mean,
    test_u=kept[1].value.mean,
    test_r=kept[1].ideal.mean,
  )
  mean, low, high, method = score.value
  value = Interval(mean * ratio, low * ratio, high * ratio, method)
  return dataclasses.replace(score, value=value)


def _card(name, row, is_over, collapsed, damaged, n_seeds, n_examples):
  is_gap = name == 'confidence_gap'
  verdict, over = judge(
    row.value.mean,
    _triple(row.ideal),
    row.floor,
    direction=_DIRECTIONS[name],
    forgotten='below' if is_gap else None,
    damaged=damaged,
  )
  if not is_gap and verdict != 'no reference':
    # More visible than never having been seen, by a confidence that is lower.
    over = is_over
    verdict = 'over' if over and verdict == 'under' else verdict
  return MetricCard(
    name=name,
    version=1,
    value=row.value.mean,
    ci_low=row.value.low,
    ci_high=row.value.high,
    ci_method=row.value.method,
    n_seeds=n_seeds,
    n_examples=n_examples,
    values=(row.value.mean,),
    ideal=row.ideal.mean,
    ideal_kind='none' if np.isnan(row.ideal.mean) else 'retrain',
    ideal_ci_low=row.ideal.low,
    ideal_ci_high=row.ideal.high,
    direction=_DIRECTIONS[name],
    gap=row.value.mean - row.ideal.mean,
    noise_floor=row.floor,
    over_unlearned=over,
    collapsed=collapsed,
    verdict=verdict,
    notes=row.notes,
  )


def _sizes(count_u, count_r, count_never):
  """Returns how many models each side gets, and the examples with enough."""
  least = forgetting_score.LEAST_MODELS
  never = int(count_never.min())
  if never < 2 * LEAST_MEMBERS:
    raise ValueError(
      f'the null distribution needs {2 * LEAST_MEMBERS} models that never saw '
      f'an example, got {never}.'
    )
  common = np.quantile(count_u, 1 - _SHARE_WITH_ENOUGH, method='lower')
  size_u = int(min(max(common, least), never // 2))
  size_r = min(int(count_r.min()), never - size_u)
  if size_r < least:
    raise ValueError(
      f'the forgetting score needs {least} models in each world, got '
      f'{size_r} that never saw an example.'
    )
  columns = np.flatnonzero(count_u >= size_u)
  every = max(1, -(-len(columns) // _MOST_EXAMPLES))
  return (size_u, size_r), columns[::every]


def _ulira(worlds, density='gaussian'):
  return ulira(
    worlds.phi_u,
    worlds.phi_r,
    in_u=worlds.in_u,
    in_r=worlds.in_r,
    density=density,
  )


def _by_ulira(found, worlds):
  """Returns its values, and the accuracy of kernel densities on `worlds`."""
  return {
    'ulira.accuracy': found.accuracy,
    'ulira.auc': found.auc,
    'ulira.tpr_at_1e2': found.tpr_at_1e2,
    'ulira.tpr_at_1e3': found.tpr_at_1e3,
    'ulira.kde_accuracy': _ulira(worlds, 'kde').accuracy,
  }


def _by_example(u, r):
  divergence = klom.klom(u, r)
  return {
    'klom.mean': float(divergence.mean()),
    'klom.median': float(np.median(divergence)),
    'klom.p95': float(np.percentile(divergence, 95)),
    'forgetting_score': forgetting_score.forgetting_quality(u, r),
    'confidence_gap': float((u.mean(0) - r.mean(0)).mean()),
  }


def _append(lists, values):
  for name, value in values.items():
    lists.setdefault(name, []).append(value)


def _percentiles(values) -> Interval:
  """Mean and 95 percent range over draws."""
  values = np.array(values)
  if np.isnan(values).any():
    return Interval(np.nan, np.nan, np.nan, 'none')
  low, high = np.percentile(values, [2.5, 97.5])
  return Interval(float(values.mean()), float(low), float(high), 'draws')


def _floor(values) -> float:
  """95th percentile of what the null strays from its mean."""
  values = np.array(values)
  return float(np.percentile(np.abs(values - values.mean()), 95))


def _triple(interval):
  return interval.mean, interval.low, interval.high
