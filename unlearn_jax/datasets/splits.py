"""Training, validation and test parts of a corpus.

All draws hash the seed with an id, so that a part depends on neither the order
of rows nor the version of a random generator.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import hashlib
import re

import numpy as np

from unlearn_jax import types
from unlearn_jax.datasets.corpus import Corpus

KINDS = ('official', 'speaker', 'utterance', 'session')
PARTS = ('training', 'validation', 'test')
_TRAINING, _VALIDATION, _TEST = range(3)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """Rows of a corpus, int64, sorted; disjoint, and together all of it."""

  training: np.ndarray
  validation: np.ndarray
  test: np.ndarray


def random_rank(ids: Iterable[str], *, seed: int, purpose: str) -> np.ndarray:
  """Returns a uniform number for each id, uint64 [n].

  The number of an id depends on it, the seed and the purpose alone; two
  purposes have independent numbers.
  """
  digests = (
    hashlib.blake2b(f'{purpose}\n{seed}\n{i}'.encode(), digest_size=8).digest()
    for i in ids
  )
  return np.frombuffer(b''.join(digests), '<u8').astype(np.uint64)


def split(
  corpus: Corpus,
  kind: str,
  *,
  seed: int,
  validation_fraction: float = 0.1,
  test_fraction: float = 0.2,
) -> Split:
  """Splits a corpus into training, validation and test rows.

  | kind | parts |
  |---|---|
  | official | the corpus's own |
  | speaker | disjoint speakers; the fractions are of speakers |
  | utterance | disjoint takes of the same speakers |
  | session | disjoint sessions of the same speakers |

  Where the official split has no validation part, that share of its training
  part is drawn as with `utterance`: every keyword of every speaker gives its
  share, up or down to a whole take.

  With `speaker`, a class recorded by one speaker who says nothing else (such
  as `_silence_`) is split by utterance, else two parts would lack it. With
  `utterance`, a speaker left without a training take keeps all takes there.

  With `session`, the last sessions of every speaker are for test and those
  before them for validation, in the order of their names (numbers by value) and
  at least one of each: later recordings test what earlier ones taught. Nothing
  is drawn, so the parts are the same for every seed. The fractions are of
  sessions.

  Args:
    corpus: labels and ids; no audio is read.
    kind: one of `KINDS`.
    seed: of the draws.
    validation_fraction: share of the validation part, in (0, 1).
    test_fraction: share of the test part, in (0, 1); not used by `official`.

  Raises:
    InputError: if the kind is unknown or does not fit the corpus, a fraction
      is out of bounds, or a part is empty.
  """
  fractions = validation_fraction, test_fraction
  if not (min(fractions) > 0 and sum(fractions) < 1):
    raise types.InputError(
      f'--validation_fraction={validation_fraction} and '
      f'--test_fraction={test_fraction} must be positive and sum to less than '
      '1.'
    )
  if kind == 'official':
    part = _official(corpus, seed, validation_fraction)
  elif kind == 'speaker':
    part = _by_speaker(corpus, seed, *fractions)
  elif kind == 'utterance':
    part = _by_utterance(corpus, np.arange(len(corpus)), seed, *fractions)
  elif kind == 'session':
    part = _by_session(corpus, *fractions)
  else:
    raise types.InputError(
      f'--split={kind}: must be one of {", ".join(KINDS)}.'
    )
  for value, name in enumerate(PARTS):
    if not (part == value).any():
      raise types.InputError(
        f'--split={kind}: the {name} part of corpus {corpus.name} is empty; '
        f'its {len(corpus)} recordings do not suffice.'
      )
  return Split(*(np.flatnonzero(part == value) for value in range(len(PARTS))))


def check_classes(
  label: np.ndarray, split: Split, names: Sequence[str], *, kind: str
) -> None:
  """Refuses a split with which a class cannot be learnt or tested.

  Args:
    label: [n] class of each row, from `Corpus.labels`.
    split: rows of the parts.
    names: of the classes.
    kind: of the split, for the message.

  Raises:
    InputError: if there are fewer than two classes, or one has no training or
      no test utterance.
  """
  if len(names) < 2:
    raise types.InputError(
      f'--task=sid: the corpus has {len(names)} speaker; must have at least 2.'
    )
  for part in ('training', 'test'):
    counts = np.bincount(label[getattr(split, part)], minlength=len(names))
    empty = np.flatnonzero(counts == 0)
    if len(empty):
      raise types.InputError(
        f'--split={kind}: the {part} part has no utterance of '
        f'{names[empty[0]]} ({len(empty)} of {len(names)} classes have none); '
        'every class must have some: sid needs utterance, session or official.'
      )


def _official(corpus, seed, validation_fraction):
  """Returns the part of each row, [n]."""
  if corpus.official_split is None:
    raise types.InputError(
      f'--split=official: corpus {corpus.name} has no official split; must be '
      'speaker, utterance or session.'
    )
  part = corpus.official_split.copy()
  if not (part == _VALIDATION).any():
    rows = np.flatnonzero(part == _TRAINING)
    part[rows] = _by_utterance(corpus, rows, seed, validation_fraction, 0.0)
  return part


def _by_speaker(corpus, seed, validation_fraction, test_fraction):
  """Returns the part of each row, [n]; fractions are of speakers."""
  keyword, speaker = np.unique(
    np.stack([corpus.keyword, corpus.speaker]), axis=1
  )
  is_pseudo = np.bincount(keyword)[keyword] == 1
  is_pseudo &= np.bincount(speaker)[speaker] == 1
  speakers = np.unique(speaker[~is_pseudo])
  num_validation, num_test = (
    max(1, round(x * len(speakers)))
    for x in (validation_fraction, test_fraction)
  )
  if num_test + num_validation >= len(speakers):
    raise types.InputError(
      f'--split=speaker: corpus {corpus.name} has {len(speakers)} speakers; '
      f'must have more than {num_validation} for validation and {num_test} for '
      'test.'
    )
  names = [corpus.speakers[i] for i in speakers]
  rank = random_rank(names, seed=seed, purpose='speaker split')
  order = speakers[np.lexsort((names, rank))]
  part_of_speaker = np.full(len(corpus.speakers), _TRAINING, np.int8)
  part_of_speaker[order[:num_test]] = _TEST
  part_of_speaker[order[num_test : num_test + num_validation]] = _VALIDATION
  part = part_of_speaker[corpus.speaker]
  rows = np.flatnonzero(np.isin(corpus.speaker, speaker[is_pseudo]))
  part[rows] = _by_utterance(
    corpus, rows, seed, validation_fraction, test_fraction
  )
  return part


def _by_session(corpus, *fractions):
  """Returns the part of each row, [n]; fractions are of sessions."""
  unknown = [i for i, name in enumerate(corpus.sessions) if not name]
  count = np.isin(corpus.session, unknown).sum()
  if count:
    raise types.InputError(
      f'--split=session: corpus {corpus.name} does not tell the session of '
      f'{count} of its {len(corpus)} recordings; must be '
      f'{", ".join(KINDS[:-2])} or {KINDS[-2]}.'
    )
  place = _natural_place(corpus.sessions)[corpus.session]
  part = np.full(len(corpus), _TRAINING, np.int8)
  for speaker, name in enumerate(corpus.speakers):
    rows = np.flatnonzero(corpus.speaker == speaker)
    sessions, session = np.unique(place[rows], return_inverse=True)
    num = len(sessions)
    num_validation, num_test = (max(1, round(x * num)) for x in fractions)
    if num_test + num_validation >= num:
      raise types.InputError(
        f'--split=session: speaker {name} of corpus {corpus.name} has {num} '
        f'sessions; must have more than {num_validation} for validation and '
        f'{num_test} for test.'
      )
    part[rows[session >= num - num_test - num_validation]] = _VALIDATION
    part[rows[session >= num - num_test]] = _TEST
  return part


def _natural_place(names):
  """Returns the place of each name, [n], with numbers in it by value."""

  def key(i):
    pieces = re.split(r'(\d+)', names[i])  # Text, number, text and so on.
    pieces[1::2] = map(int, pieces[1::2])
    return pieces, names[i]

  return np.argsort(sorted(range(len(names)), key=key))


def _by_utterance(corpus, rows, seed, validation_fraction, test_fraction):
  """Returns the part of each of `rows`, [len(rows)]."""
  ids = corpus.utterance_id[rows]
  rank = random_rank(ids, seed=seed, purpose='utterance split')
  by_id = np.lexsort((ids, rank))
  place = np.empty(len(rows), np.int64)  # A rank without ties.
  place[by_id] = np.arange(len(rows))
  keyword, speaker = corpus.keyword[rows], corpus.speaker[rows]
  part = np.full(len(rows), _TRAINING, np.int8)
  part[_draw(keyword, speaker, place, test_fraction)] = _TEST
  rest = np.flatnonzero(part == _TRAINING)
  drawn = _draw(
    keyword[rest],
    speaker[rest],
    place[rest],
    validation_fraction / (1 - test_fraction),
  )
  part[rest[drawn]] = _VALIDATION
  part[~np.isin(speaker, speaker[part == _TRAINING])] = _TRAINING
  return part


def _draw(keyword, speaker, place, fraction):
  """Draws a share of every keyword of every speaker, bool [n].

  Cells follow one another by keyword and then in random order; each gives what
  brings the running total nearest to its share. So a cell gives its share up
  or down to a whole number, and a keyword gives its own to within one.
  """
  cell = keyword.astype(np.int64) * (speaker.max(initial=0) + 1) + speaker
  _, cell, sizes = np.unique(cell, return_inverse=True, return_counts=True)
  first = np.full(len(sizes), place.max(initial=0))
  np.minimum.at(first, cell, place)  # Random, and different for each cell.
  order = np.lexsort((place, first[cell], keyword))
  is_first = np.flatnonzero(np.diff(cell[order], prepend=-1))
  sizes = sizes[cell[order][is_first]]
  ends = np.cumsum(sizes)
  quota = np.diff(np.floor(ends * fraction + 0.5), prepend=0)
  drawn = np.zeros(len(place), bool)
  drawn[order] = np.arange(len(place)) < np.repeat(is_first + quota, sizes)
  return drawn
