"""What "Speech Unlearning" claims, and what records of studies say of it.

The claims C are those of Cheng & Amiri, Interspeech 2025; the questions Q are
ours. A rule that says when one counts as supported was written down before any
result.
"""

from collections.abc import Iterator, Mapping, Sequence

from unlearn_jax.evaluation import control_claims
from unlearn_jax.evaluation import statistics
from unlearn_jax.evaluation.claim import Claim
from unlearn_jax.evaluation.claim import is_above
from unlearn_jax.evaluation.claim import is_known
from unlearn_jax.evaluation.claim import made
from unlearn_jax.evaluation.claim import of_most
from unlearn_jax.evaluation.outcome import RETRAIN
from unlearn_jax.evaluation.results_block import Block

_FORGET = 'accuracy.forget'
_ATTACK = 'mia.loss_threshold.auc'
_ULIRA = 'ulira.accuracy'
_SUPERLOSS = 'superloss:'


def judge_claims(
  blocks: Sequence[Block], populations: Mapping[str, Block] | None = None
) -> list[Claim]:
  """Returns all claims, with what the records say of each.

  Args:
    blocks: results of studies, those of controls among them.
    populations: of each title of a block, cards of populations that forgot
      likewise, which have U-LiRA.
  """
  populations = populations or {}
  main = [block for block in blocks if not block.condition]
  return [
    _samples_cannot_be_forgotten(main),
    _teachers_collapse(main),
    _relabelling_keeps(main),
    control_claims.order_explains(blocks),
    _classes_are_harder(main),
    _attacks_detect(main, populations),
    _superloss_helps(main),
    control_claims.speech_is_harder(blocks),
    control_claims.overtraining_hardens(blocks),
    control_claims.good_looks_survive(main, populations),
  ]


def _samples_cannot_be_forgotten(blocks):
  name, text = 'C1', 'No method forgets samples without large damage.'
  rule = (
    'no method has a forget accuracy equivalent to retraining (two one-sided '
    'tests, margin: the noise floor) with retain and test accuracy undamaged'
  )
  evidence, equivalent = [], 0
  for block in _of(blocks, 'sample'):
    tested = {m: block.is_equivalent(m, _FORGET) for m in block.methods()}
    tested = {m: same for m, same in tested.items() if same is not None}
    if not tested:  # Of one seed, nothing can be said.
      continue
    found = [m for m in tested if tested[m] and block.is_undamaged(m)]
    equivalent += len(found)
    evidence.append(
      f'{block.title}: {len(found)} of {len(tested)} methods'
      f'{": " + ", ".join(found) if found else ""}.'
    )
  return made(name, text, rule, evidence, not equivalent)


def _teachers_collapse(blocks):
  name = 'C2'
  text = (
    'gradient_ascent, bad_teacher and scrub collapse for want of a retention '
    'mechanism.'
  )
  rule = (
    'bad_teacher and scrub, which have one, collapse with the correct '
    'Kullback-Leibler divergence, each for some sample'
  )
  evidence, collapsed = [], set()
  for block in _of(blocks, 'sample'):
    known = [
      m for m in ('gradient_ascent', 'bad_teacher', 'scrub') if m in block.cards
    ]
    if not {'bad_teacher', 'scrub'} <= set(known):
      continue
    found = [m for m in known if block.has_collapsed(m)]
    collapsed.update(found)
    evidence.append(
      f'{block.title}: {len(found)} of {len(known)} collapsed'
      f'{": " + ", ".join(found) if found else ""}.'
    )
  holds = {'bad_teacher', 'scrub'} <= collapsed
  return made(name, text, rule, evidence, holds)


def _superloss_helps(blocks):
  name, text = (
    'C6',
    'Weighing examples by SuperLoss lets methods forget better.',
  )
  rule = (
    'for most methods the 95 % interval of the difference in average gap, '
    'paired by seed, lies below 0, without collapse or damage'
  )
  evidence, better, compared = [], 0, 0
  for block in blocks:
    for method in block.methods():
      weighed = f'{_SUPERLOSS}{method}'
      pair = block.paired(weighed, 'average_gap', method)
      if pair is None:
        continue
      found = statistics.compare_paired(*pair).difference
      good = block.is_undamaged(weighed) and not block.has_collapsed(weighed)
      better, compared = better + (good and found.high < 0), compared + 1
      evidence.append(
        f'{block.title}, {method}: {100 * found.mean:+.2f} points '
        f'({100 * found.low:+.2f} to {100 * found.high:+.2f})'
        f'{"" if good else ", damaged"}.'
      )
  return of_most(name, text, rule, evidence, better, compared)


def _relabelling_keeps(blocks):
  name = 'C3a'
  text = 'random_label and salun keep knowledge of forgotten samples.'
  rule = (
    'the 95 % interval of the difference in forget accuracy to retraining, '
    'paired by seed, lies above the noise floor, for both methods somewhere'
  )
  evidence, above, seen = [], set(), set()
  for block in _of(blocks, 'sample'):
    for method in ('random_label', 'salun'):
      pair = block.paired(method, _FORGET)
      if pair is None:
        continue
      found = statistics.compare_paired(*pair).difference
      floor = block.cards[RETRAIN][_FORGET].noise_floor
      seen.add(method)
      if found.low > floor:
        above.add(method)
      evidence.append(
        f'{block.title}, {method}: {100 * found.mean:+.2f} points '
        f'({100 * found.low:+.2f} to {100 * found.high:+.2f}), floor '
        f'{100 * floor:.2f}.'
      )
  if len(seen) < 2:
    evidence = []
  return made(name, text, rule, evidence, len(above) == 2)


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
    size = block.forget_size()
    sample = min(samples, key=lambda b: abs(b.forget_size() - size))
    count, of = block.larger_gaps(sample)
    larger, compared = larger + count, compared + of
    evidence.append(
      f'{block.title} against {sample.request}: larger for {count} of '
      f'{of} methods.'
    )
  return of_most(name, text, rule, evidence, larger, compared)


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
      known = {m: c for m, c in cards.items() if is_known(c)}
      above = [m for m, card in known.items() if is_above(card)]
      found, compared = found + len(above), compared + len(known)
      evidence.append(
        f'{block.title}, {metric}: above for {len(above)} of {len(known)}'
        f'{": " + ", ".join(above) if above else ""}.'
      )
  return of_most(name, text, rule, evidence, found, compared)


def _of(blocks, kind) -> Iterator[Block]:
  return (block for block in blocks if block.kind == kind)
