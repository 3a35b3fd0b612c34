"""What "Speech Unlearning" claims, and what records of studies say of it.

The claims are those of Cheng & Amiri, Interspeech 2025. A rule that says when
one counts as supported was written down before any result.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math
from typing import Literal

import numpy as np

from unlearn_jax.evaluation import statistics
from unlearn_jax.evaluation.metric_card import MetricCard
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.outcome import RETRAIN

Verdict = Literal['supported', 'not supported', 'not tested']
_LEVEL = 0.05
_UTILITY = ('accuracy.retain', 'accuracy.test')
_ATTACK = 'mia.loss_threshold.auc'
_ULIRA = 'ulira.accuracy'


@dataclasses.dataclass(frozen=True)
class Block:
  """The results of one request.

  Attributes:
    task: 'kws' or 'sid'.
    request: what was forgotten.
    kind: 'sample', 'keyword' or 'speaker'.
    cards: by method and metric.
  """

  task: str
  request: str
  kind: str
  cards: Mapping[str, Mapping[str, MetricCard]]

  @property
  def title(self) -> str:
    """Returns for instance 'kws sample:5%'."""
    return f'{self.task} {self.request}'

  def methods(self) -> list[str]:
    """Returns the methods, without the original and retraining."""
    return [m for m in self.cards if m not in (ORIGINAL, RETRAIN)]

  def removes_class(self) -> bool:
    """Says whether a class of the task is removed."""
    return self.kind == {'kws': 'keyword', 'sid': 'speaker'}[self.task]


@dataclasses.dataclass(frozen=True)
class Claim:
  """A claim, how it is tested and what came of it.

  Attributes:
    name: for instance 'C1'.
    text: what is claimed.
    rule: when it counts as supported.
    verdict: what came of it.
    evidence: sentences.
  """

  name: str
  text: str
  rule: str
  verdict: Verdict
  evidence: tuple[str, ...] = ()


def judge_claims(
  blocks: Sequence[Block], populations: Mapping[str, Block] | None = None
) -> list[Claim]:
  """Returns all claims, with what the records say of each.

  Args:
    blocks: results of studies.
    populations: of each title of a block, cards of populations that forgot
      likewise, which have U-LiRA.
  """
  populations = populations or {}
  return [
    _samples_cannot_be_forgotten(blocks),
    _untested(
      'C2',
      'gradient_ascent, bad_teacher and scrub collapse for want of a retention '
      'mechanism.',
      'the collapse remains with the correct Kullback-Leibler divergence',
    ),
    _relabelling_keeps(blocks),
    _classes_are_harder(blocks),
    _attacks_detect(blocks, populations),
    _untested(
      'C6',
      'Weighing examples by SuperLoss lets methods forget more.',
      'the gap to retraining falls, without collapse or loss of test accuracy',
    ),
    _untested(
      'C7',
      'Speech is harder to unlearn than images.',
      'gaps, in noise floors, are larger than on images of matched size',
    ),
  ]


def _untested(name, text, rule):
  return Claim(name, text, rule, 'not tested')


def _paired(
  block: Block, method: str, metric: str
) -> tuple[np.ndarray, np.ndarray] | None:
  """Returns a metric of a method and of retraining, [seeds] each."""
  cards = [block.cards.get(m, {}).get(metric) for m in (method, RETRAIN)]
  if cards[0] is None or cards[1] is None:
    return None
  own, ideal = np.array(cards[0].values), np.array(cards[1].values)
  return (own, ideal) if len(own) == len(ideal) >= 2 else None


def is_equivalent(block: Block, method: str, metric: str) -> bool:
  """Says whether a metric equals retraining's within the noise floor.

  Two one-sided tests on the differences, paired by seed, at the 5 % level.
  """
  pair = _paired(block, method, metric)
  floor = block.cards[RETRAIN][metric].noise_floor if pair else math.nan
  if pair is None or not floor > 0:
    return False
  return statistics.equivalence_p(*pair, floor) < _LEVEL


def is_undamaged(block: Block, method: str) -> bool:
  """Says whether retain and test accuracy are not judged as damaged."""
  cards = block.cards[method]
  return not any(cards[name].verdict == 'damaged' for name in _UTILITY)


def _samples_cannot_be_forgotten(blocks):
  name, text = 'C1', 'No method forgets samples without large damage.'
  rule = (
    'no method has a forget accuracy equivalent to retraining (two one-sided '
    'tests, margin: the noise floor) with retain and test accuracy undamaged'
  )
  evidence, equivalent = [], 0
  for block in _of(blocks, 'sample'):
    found = [
      m
      for m in block.methods()
      if is_undamaged(block, m) and is_equivalent(block, m, 'accuracy.forget')
    ]
    equivalent += len(found)
    evidence.append(
      f'{block.title}: {len(found)} of {len(block.methods())} methods'
      f'{": " + ", ".join(found) if found else ""}.'
    )
  return _claim(name, text, rule, evidence, not equivalent)


def _relabelling_keeps(blocks):
  name = 'C3'
  text = 'random_label and salun keep knowledge of forgotten samples.'
  rule = (
    'the 95 % interval of the difference in forget accuracy to retraining, '
    'paired by seed, lies above the noise floor, for both methods somewhere'
  )
  evidence, above = [], set()
  for block in _of(blocks, 'sample'):
    for method in ('random_label', 'salun'):
      pair = _paired(block, method, 'accuracy.forget')
      if pair is None:
        continue
      found = statistics.compare_paired(*pair).difference
      floor = block.cards[RETRAIN]['accuracy.forget'].noise_floor
      if found.low > floor:
        above.add(method)
      evidence.append(
        f'{block.title}, {method}: {100 * found.mean:+.2f} points '
        f'({100 * found.low:+.2f} to {100 * found.high:+.2f}), floor '
        f'{100 * floor:.2f}.'
      )
  return _claim(name, text, rule, evidence, len(above) == 2)


def _classes_are_harder(blocks):
  name, text = 'C4', 'Classes are harder to unlearn than samples.'
  rule = (
    'for most methods the average gap, in noise floors, is larger for a class '
    'than for the sample whose size is nearest'
  )
  evidence, larger, compared = [], 0, 0
  for block in blocks:
    samples = [b for b in _of(blocks, 'sample') if b.task == block.task]
    if not block.removes_class() or not samples:
      continue
    size = _size(block)
    sample = min(samples, key=lambda b: abs(_size(b) - size))
    pairs = [
      (_in_floors(block, m), _in_floors(sample, m))
      for m in block.methods()
      if m in sample.cards
    ]
    pairs = [pair for pair in pairs if not np.isnan(pair).any()]
    count = sum(own > other for own, other in pairs)
    larger, compared = larger + count, compared + len(pairs)
    evidence.append(
      f'{block.title} against {sample.request}: larger for {count} of '
      f'{len(pairs)} methods.'
    )
  if not compared:
    evidence = []
  return _claim(name, text, rule, evidence, larger > compared / 2)


def _size(block):
  return block.cards[RETRAIN]['accuracy.forget'].n_examples


def _in_floors(block, method):
  card = block.cards[method].get('average_gap')
  floor = block.cards[RETRAIN]['average_gap'].noise_floor
  return card.value / floor if card is not None and floor > 0 else math.nan


def _attacks_detect(blocks, populations):
  name, text = 'C5', 'Membership attacks still find what was unlearned.'
  rule = (
    'for most methods the 95 % interval of a matched attack by loss, or of '
    'U-LiRA, lies above the interval of retraining'
  )
  evidence, found, compared = [], 0, 0
  for block in blocks:
    for where, metric in (
      (block, _ATTACK),
      (populations.get(block.title), _ULIRA),
    ):
      if where is None:
        continue
      cards = {m: where.cards[m].get(metric) for m in where.methods()}
      known = {m: c for m, c in cards.items() if c is not None}
      above = [m for m, card in known.items() if _is_above(card)]
      found, compared = found + len(above), compared + len(known)
      evidence.append(
        f'{block.title}, {metric}: above for {len(above)} of {len(known)}'
        f'{": " + ", ".join(above) if above else ""}.'
      )
  if not compared:
    evidence = []
  return _claim(name, text, rule, evidence, found > compared / 2)


def _is_above(card):
  top = card.ideal if math.isnan(card.ideal_ci_high) else card.ideal_ci_high
  return card.ci_low > top


def _of(blocks, kind) -> Iterator[Block]:
  return (block for block in blocks if block.kind == kind)


def _claim(name, text, rule, evidence, holds):
  if not evidence:
    return Claim(name, text, rule, 'not tested')
  verdict: Verdict = 'supported' if holds else 'not supported'
  return Claim(name, text, rule, verdict, tuple(evidence))
