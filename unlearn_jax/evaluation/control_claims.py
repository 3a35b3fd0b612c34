"""Claims that need studies beside the main ones: controls.

A control repeats requests of a main study on another corpus, on inputs without
the order of time, or with original models that were trained for longer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from unlearn_jax.evaluation import statistics
from unlearn_jax.evaluation.claim import Claim
from unlearn_jax.evaluation.claim import is_above
from unlearn_jax.evaluation.claim import is_known
from unlearn_jax.evaluation.claim import made
from unlearn_jax.evaluation.claim import of_most
from unlearn_jax.evaluation.outcome import ORIGINAL
from unlearn_jax.evaluation.results_block import Block

IMAGES, SPEECH = 'digit_images', 'free_spoken_digits/30_takes'
_FORGET, _TEST = 'accuracy.forget', 'accuracy.test'
_ATTACK, _ULIRA = 'mia.loss_threshold.auc', 'ulira.accuracy'


def order_explains(blocks: Sequence[Block]) -> Claim:
  """C3b: what is kept of samples comes from the order of frames."""
  name, text = (
    'C3b',
    'random_label and salun keep samples because frames depend on each other.',
  )
  rule = (
    'the excess of forget accuracy over retraining is smaller, by the 95 % '
    'interval of its difference paired by seed, where frames are shuffled or '
    'averaged, for both methods somewhere'
  )
  evidence, smaller, seen = [], set(), set()
  for block, control in _pairs(blocks, lambda b: b.frames != 'ordered'):
    if block.frames != 'ordered' or block.kind != 'sample':
      continue
    for method in ('random_label', 'salun'):
      excesses = [_excess(b, method) for b in (control, block)]
      if any(e is None or len(e) != len(excesses[0]) for e in excesses):
        continue
      found = statistics.compare_paired(*excesses).difference
      seen.add(method)
      if found.high < 0:
        smaller.add(method)
      evidence.append(
        f'{block.title}, frames {control.frames}, {method}: excess '
        f'{100 * excesses[0].mean():+.2f} against '
        f'{100 * excesses[1].mean():+.2f} points, difference '
        f'{100 * found.mean:+.2f} ({100 * found.low:+.2f} to '
        f'{100 * found.high:+.2f}).'
      )
  if len(seen) < 2:
    evidence = []
  return made(name, text, rule, evidence, len(smaller) == 2)


def speech_is_harder(blocks: Sequence[Block]) -> Claim:
  """C7: speech against images of matched size, classes and accuracy."""
  name, text = 'C7', 'Speech is harder to unlearn than images.'
  rule = (
    'for most methods the average gap, in noise floors, is larger on '
    f'{SPEECH} than on {IMAGES}'
  )
  evidence, larger, compared = [], 0, 0
  for speech, images in _pairs(blocks, lambda b: b.corpus == IMAGES):
    if speech.corpus != SPEECH:
      continue
    count, of = speech.larger_gaps(images)
    larger, compared = larger + count, compared + of
    base = [100 * b.cards[ORIGINAL][_TEST].value for b in (speech, images)]
    evidence.append(
      f'{speech.task} {speech.request}: larger for {count} of {of} methods; '
      f'original models have {base[0]:.1f} and {base[1]:.1f} % on the test set.'
    )
  return of_most(name, text, rule, evidence, larger, compared)


def overtraining_hardens(blocks: Sequence[Block]) -> Claim:
  """Q1: original models that were trained for longer."""
  name, text = 'Q1', 'An over-trained model is harder to unlearn.'
  rule = (
    'for most methods the average gap, in noise floors, is larger after the '
    'longer training'
  )
  evidence, larger, compared = [], 0, 0
  for block, longer in _pairs(blocks, lambda b: True):
    if not longer.epochs > block.epochs:
      continue
    count, of = longer.larger_gaps(block)
    larger, compared = larger + count, compared + of
    evidence.append(
      f'{block.title}, {longer.epochs} epochs against {block.epochs}: larger '
      f'for {count} of {of} methods.'
    )
  return of_most(name, text, rule, evidence, larger, compared)


def good_looks_survive(
  blocks: Sequence[Block], populations: Mapping[str, Block]
) -> Claim:
  """Q2: methods of which a loss attack finds nothing, under U-LiRA."""
  name, text = (
    'Q2',
    'Methods that look good under the attack by loss survive U-LiRA.',
  )
  rule = (
    'of the methods whose interval of the matched attack by loss is not above '
    'that of retraining, most have an interval of U-LiRA that is not'
  )
  evidence, survive, compared = [], 0, 0
  for block in blocks:
    population = populations.get(block.title)
    if population is None:
      continue
    good = []
    for method in block.methods():
      attack = block.cards[method].get(_ATTACK)
      ulira = population.cards.get(method, {}).get(_ULIRA)
      if attack is None or ulira is None:
        continue
      if is_known(attack) and is_known(ulira) and not is_above(attack):
        good.append((method, is_above(ulira)))
    kept = [method for method, found in good if not found]
    survive, compared = survive + len(kept), compared + len(good)
    evidence.append(
      f'{block.title}: {len(kept)} of {len(good)} survive'
      f'{": " + ", ".join(kept) if kept else ""}.'
    )
  return of_most(name, text, rule, evidence, survive, compared)


def _pairs(
  blocks: Sequence[Block], is_control: Callable[[Block], bool]
) -> Iterator[tuple[Block, Block]]:
  """Yields blocks with controls that differ from them in one thing alone."""
  for block in blocks:
    for other in blocks:
      if (block.task, block.request) != (other.task, other.request):
        continue
      ours, theirs = ((b.corpus, b.frames, b.epochs) for b in (block, other))
      differ = sum(a != b for a, b in zip(ours, theirs, strict=True))
      if differ == 1 and is_control(other):
        yield block, other


def _excess(block, method):
  """Returns forget accuracy less that of retraining, [seeds], or None."""
  pair = block.paired(method, _FORGET)
  return None if pair is None else pair[0] - pair[1]
