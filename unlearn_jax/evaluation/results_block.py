"""The results of one request: cards of all methods, and questions to them."""

from collections.abc import Mapping
import dataclasses
import math

import numpy as np

from unlearn_jax.evaluation import statistics
from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import RETRAIN

_LEVEL = 0.05
_UTILITY = ('accuracy.retain', 'accuracy.test')


@dataclasses.dataclass(frozen=True)
class Block:
  """The results of one request.

  Attributes:
    task: 'kws' or 'sid'.
    request: what was forgotten.
    kind: 'sample', 'keyword' or 'speaker'.
    cards: by method and metric.
    corpus: of the models.
    frames: of the inputs: 'ordered', 'shuffled' or 'averaged'.
    epochs: of training the original models.
    condition: in what a control differs from the main study; '' is the main.
    variants: as `cards`, of methods with other settings, as 'npo[beta=1]';
      each method itself is in `cards`.
  """

  task: str
  request: str
  kind: str
  cards: Mapping[str, Mapping[str, MetricCard]]
  corpus: str = ''
  frames: str = 'ordered'
  epochs: int = 0
  condition: str = ''
  variants: Mapping[str, Mapping[str, MetricCard]] = dataclasses.field(
    default_factory=dict
  )

  @property
  def title(self) -> str:
    """Returns for instance 'kws sample:5%', and the condition."""
    where = f' ({self.condition})' if self.condition else ''
    return f'{self.task} {self.request}{where}'

  def methods(self) -> list[str]:
    """Returns the methods, without the original and retraining."""
    return [m for m in self.cards if m not in (ORIGINAL, RETRAIN)]

  def removes_class(self) -> bool:
    """Says whether a class of the task is removed."""
    return self.kind == {'kws': 'keyword', 'sid': 'speaker'}[self.task]

  def forget_size(self) -> float:
    """Returns how many examples were forgotten."""
    return self.cards[RETRAIN]['accuracy.forget'].n_examples or 0.0

  def has_collapsed(self, method: str) -> bool:
    """Says whether a method has collapsed in any seed."""
    return any(card.collapsed for card in self.cards[method].values())

  def is_undamaged(self, method: str) -> bool:
    """Says whether retain and test accuracy are not judged as damaged."""
    cards = self.cards[method]
    return not any(cards[name].verdict == 'damaged' for name in _UTILITY)

  def paired(
    self, method: str, metric: str, other: str = RETRAIN
  ) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns a metric of two methods, [seeds] each.

    None where one is not there, or fewer than two seeds have both.
    """
    cards = [self.cards.get(m, {}).get(metric) for m in (method, other)]
    if cards[0] is None or cards[1] is None:
      return None
    own, its = np.array(cards[0].values), np.array(cards[1].values)
    if len(own) != len(its) or (~np.isnan(own - its)).sum() < 2:
      return None
    return own, its

  def is_equivalent(self, method: str, metric: str) -> bool | None:
    """Says whether a metric equals retraining's within the noise floor.

    Two one-sided tests on the differences, paired by seed, at the 5 % level.
    None where that cannot be tested: one seed, or no noise floor.
    """
    pair = self.paired(method, metric)
    floor = self.cards[RETRAIN][metric].noise_floor if pair else math.nan
    if pair is None or not floor > 0:
      return None
    return statistics.equivalence_p(*pair, floor) < _LEVEL

  def larger_gaps(self, other: 'Block') -> tuple[int, int]:
    """Returns for how many methods the gap is larger here, and of how many.

    In noise floors, over methods of which both are known.
    """
    pairs = [
      (self.gap_in_floors(m), other.gap_in_floors(m))
      for m in self.methods()
      if m in other.cards
    ]
    pairs = [pair for pair in pairs if not np.isnan(pair).any()]
    return sum(own > its for own, its in pairs), len(pairs)

  def gap_in_floors(self, method: str) -> float:
    """Returns the average gap in units of its noise floor, or nan."""
    card = self.cards[method].get('average_gap')
    floor = self.cards[RETRAIN]['average_gap'].noise_floor
    return card.value / floor if card is not None and floor > 0 else math.nan
