"""Ranks of methods, where a paired comparison over seeds separates them."""

from collections.abc import Sequence
import itertools
from typing import NamedTuple

import numpy as np

from unlearn_jax.evaluation import statistics
from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import RETRAIN

_LEVEL = 0.05


class Rank(NamedTuple):
  """The ranks that a method may have; 1 is nearest to retraining.

  Attributes:
    best: one more than the methods that are better beyond chance.
    worst: how many methods there are, less those that are worse beyond chance.
  """

  best: int
  worst: int


def rank(
  cards: Sequence[MetricCard], name: str = 'average_gap'
) -> dict[str, Rank]:
  """Ranks methods by how far they are from the ideal, in absolute value.

  Each pair is compared over the seeds that both have, by a paired t test at 5
  percent with Holm's correction over all pairs. Where no pair is separated,
  every method may have any rank.

  Args:
    cards: of any metrics and methods. Original and retrained models, and those
      that are damaged or whose value is unknown, get no rank.
    name: the metric.

  Returns:
    of each method that is ranked, from the nearest to the farthest on average.
  """
  found = {}
  for card in cards:
    method = card.provenance['method']
    if card.name != name or method in (ORIGINAL, RETRAIN):
      continue
    if card.verdict == 'damaged' or np.isnan(card.gap):
      continue
    seeds = card.provenance['seeds']
    gaps = np.abs(np.array(card.values) - card.ideal)
    found[method] = dict(zip(seeds, gaps, strict=True))
  order = sorted(found, key=lambda m: float(np.nanmean([*found[m].values()])))
  pairs = list(itertools.combinations(order, 2))
  p_values = np.array([_p_value(found[a], found[b]) for a, b in pairs])
  separated = {
    pair
    for pair, p in zip(pairs, statistics.holm(p_values), strict=True)
    if p < _LEVEL
  }
  return {
    method: Rank(
      1 + sum(pair[1] == method for pair in separated),
      len(order) - sum(pair[0] == method for pair in separated),
    )
    for method in order
  }


def _p_value(first, second) -> float:
  """Returns that of the paired test; 1 where there are too few seeds."""
  seeds = [s for s in first if s in second]
  values = [np.array([of[s] for s in seeds]) for of in (first, second)]
  if (~np.isnan(values[0] - values[1])).sum() < 2:
    return 1.0
  return statistics.compare_paired(*values).p_t
