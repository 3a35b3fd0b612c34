"""Forget sets: the grammar of `--forget` and what it selects.

| part | selects of the training utterances |
|---|---|
| `sample:5%` | a share, drawn uniformly |
| `sample:200` | a number, drawn uniformly |
| `keyword:stop` | every one of a keyword |
| `speaker:00000007` | every one of a speaker |
| `ids:FILE` | those whose ids are in a file, one a line; `#` begins a comment |

Parts joined by `+` select their union, as in
`keyword:stop+speaker:00000007+sample:1%`.
"""

from collections.abc import Iterable
import dataclasses
import difflib
import hashlib
import math
import pathlib
import re

import numpy as np

from unlearn_jax import types
from unlearn_jax.datasets import splits
from unlearn_jax.datasets.corpus import Corpus

KINDS = ('sample', 'keyword', 'speaker', 'ids')
_FLAG = '--forget'
_GRAMMAR = 'sample:5%, sample:200, keyword:NAME, speaker:NAME or ids:FILE'


@dataclasses.dataclass(frozen=True, order=True)
class ForgetPart:
  """One part of a request; `value` is in canonical form."""

  kind: str
  value: str

  def __str__(self) -> str:
    """Returns `kind:value`."""
    return f'{self.kind}:{self.value}'


@dataclasses.dataclass(frozen=True)
class ForgetRequest:
  """What to forget: parts, sorted and without repeats.

  `str` gives the canonical form, so equal requests have equal strings.

  Attributes:
    parts: at least one.
    flag: that gave it, for messages.
  """

  parts: tuple[ForgetPart, ...]
  flag: str = dataclasses.field(default=_FLAG, compare=False, repr=False)

  def __str__(self) -> str:
    """Returns the canonical form."""
    return '+'.join(map(str, self.parts))

  @property
  def kind(self) -> str:
    """Kind of the parts, or `mixed` where they differ."""
    kinds = {part.kind for part in self.parts}
    return kinds.pop() if len(kinds) == 1 else 'mixed'


def parse(text: str, flag: str = _FLAG) -> ForgetRequest:
  """Parses the value of `--forget`.

  >>> str(parse('sample:5.0% + keyword:stop'))
  'keyword:stop+sample:5%'

  Args:
    text: parts, joined by `+`.
    flag: that gave it, for messages.

  Raises:
    InputError: if the text is malformed or a number out of bounds.
  """
  parts = set()
  # A `+` before anything but `kind:` belongs to a name or a path.
  for part in re.split(r'\+(?=\s*\w+:)', text):
    kind, colon, value = (piece.strip() for piece in part.partition(':'))
    if kind not in KINDS or not colon or not value:
      raise _error(
        text,
        f'{part.strip()!r} must be {_GRAMMAR}; parts are joined by +',
        flag,
      )
    if kind == 'sample':
      value = _canonical_size(text, value, flag)
    parts.add(ForgetPart(kind, value))
  return ForgetRequest(tuple(sorted(parts)), flag)


def select(
  request: ForgetRequest, corpus: Corpus, training: np.ndarray, *, seed: int
) -> np.ndarray:
  """Selects the forget set among the training utterances.

  Samples of one seed are nested: 1 % lies inside 2 %. They depend on the ids
  of the training utterances, not on the order of rows.

  Args:
    request: from `parse`.
    corpus: labels and ids; no audio is read.
    training: [m] rows of the training part.
    seed: of the samples.

  Returns:
    Rows of the corpus, int64, sorted.

  Raises:
    InputError: if a part names what the corpus or its training part has not,
      selects nothing, or the whole selects every training utterance.
  """
  training = np.unique(training)
  selected = np.zeros(len(training), bool)
  for part in request.parts:
    if part.kind == 'sample':
      drawn = _sample(request, part, corpus.utterance_id[training], seed)
    elif part.kind == 'keyword':
      index = _index(request, part, corpus.keywords, corpus)
      drawn = corpus.keyword[training] == index
    elif part.kind == 'speaker':
      index = _index(request, part, corpus.speakers, corpus)
      drawn = corpus.speaker[training] == index
    else:
      drawn = _from_file(request, part, corpus, training)
    if not drawn.any():
      raise _error(
        request,
        f'{part} selects none of the {len(training)} training '
        'utterances; must select at least one',
      )
    selected |= drawn
  if selected.all():
    raise _error(
      request,
      f'selects all {len(training)} training utterances; must leave '
      'some to retain',
    )
  return training[selected]


def forgotten_classes(request: ForgetRequest, task: str) -> tuple[str, ...]:
  """Returns the classes of a task that are forgotten whole, sorted.

  Args:
    request: from `parse`.
    task: 'kws', whose classes are keywords, or 'sid', whose are speakers.
  """
  kind = {'kws': 'keyword', 'sid': 'speaker'}[task]
  return tuple(part.value for part in request.parts if part.kind == kind)


def scope(request: ForgetRequest, task: str) -> types.Scope:
  """Returns what a request forgets, which decides the presets of methods.

  Args:
    request: from `parse`.
    task: 'kws' or 'sid'.
  """
  if forgotten_classes(request, task):
    return 'class'
  return 'group' if request.kind in ('speaker', 'keyword') else 'sample'


def forget_hash(utterance_ids: Iterable[str]) -> str:
  """Identifies a set of utterances, in any order, by 16 hexadecimal digits."""
  text = '\n'.join(sorted({str(i) for i in utterance_ids}))
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _error(
  request: ForgetRequest | str, problem: str, flag: str | None = None
) -> types.InputError:
  flag = flag or getattr(request, 'flag', _FLAG)
  return types.InputError(f'{flag}={request}: {problem}.')


def _canonical_size(text: str, value: str, flag: str) -> str:
  """Checks and rewrites the value of `sample:`."""
  try:
    if not value.endswith('%'):
      size = int(value)
      if size < 1:
        raise ValueError
      return str(size)
    percent = float(value[:-1])
    if not 0 < percent < 100:
      raise ValueError
    return f'{percent:.12g}%'
  except ValueError:
    raise _error(
      text,
      f'sample:{value} must be a number of utterances, at least 1, or a '
      'percentage in (0, 100)',
      flag,
    ) from None


def _sample(request, part, ids, seed):
  """Draws utterances of smallest rank, bool [m]."""
  if part.value.endswith('%'):
    size = math.floor(float(part.value[:-1]) * len(ids) / 100 + 0.5)
  else:
    size = int(part.value)
  if size > len(ids):
    raise _error(
      request, f'{part} must be at most the {len(ids)} training utterances'
    )
  rank = splits.random_rank(ids, seed=seed, purpose='forget sample')
  drawn = np.zeros(len(ids), bool)
  drawn[np.lexsort((ids, rank))[:size]] = True
  return drawn


def _nearest(name: str, names: Iterable[str], noun: str) -> str:
  names = [str(i) for i in names]
  near = ', '.join(difflib.get_close_matches(name, names, 3))
  return (
    f'{f"nearest are {near} of" if near else "there are"} {len(names)} {noun}'
  )


def _index(request, part, names, corpus):
  if part.value not in names:
    raise _error(
      request,
      f'corpus {corpus.name} has no {part.kind} {part.value!r}; '
      + _nearest(part.value, names, f'{part.kind}s'),
    )
  return names.index(part.value)


def _from_file(request, part, corpus, training):
  """Reads ids and finds them among the training utterances, bool [m]."""
  try:
    text = pathlib.Path(part.value).read_text('utf-8-sig')
  except (OSError, ValueError) as error:
    reason = getattr(error, 'strerror', None) or 'not UTF-8 text'
    raise _error(
      request, f'{part.value} must be a text file of utterance ids ({reason})'
    ) from error
  lines = (
    re.split(r'(?:^|\s)#', line)[0].strip() for line in text.splitlines()
  )
  wanted = sorted({line for line in lines if line})
  if not wanted:
    raise _error(request, f'{part.value} has no ids; must have one a line')
  for known, place in (
    (corpus.utterance_id, f'in corpus {corpus.name}'),
    (corpus.utterance_id[training], 'in the training part'),
  ):
    missing = sorted(set(wanted) - set(known.tolist()))
    if missing:
      raise _error(
        request,
        f'{len(missing)} of the {len(wanted)} ids in {part.value} must be '
        f'{place} and are not, such as {", ".join(missing[:3])}',
      )
  return np.isin(corpus.utterance_id[training], wanted)
