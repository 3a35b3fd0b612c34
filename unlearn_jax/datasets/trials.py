"""Trials of speaker verification: pairs of utterances, of one speaker or two.

A trial is a target where one speaker said both. VoxCeleb1 has a list of its
own, `veri_test.txt`; for other corpora `make_trials` draws one.
"""

from collections.abc import Sequence
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from unlearn_jax.datasets.corpus import Corpus
from unlearn_jax.types import InputError

_LINE = re.compile(r'([01])\s+(\S+)\s+(\S+)')


class Trials(NamedTuple):
  """Pairs of rows of a corpus.

  Attributes:
    target: [m] bool, whether one speaker said both.
    first: [m] int64, row of the one utterance.
    second: [m] int64, row of the other.
  """

  target: np.ndarray
  first: np.ndarray
  second: np.ndarray


def read_trials(path: str | os.PathLike, known_ids: Sequence[str]) -> Trials:
  """Reads a list in the format of VoxCeleb1, in its order.

  A line is `1 id10270/x6uYqmx31kE/00001.wav id10270/8jEAjG6SegY/00008.wav`: 1
  for a target, 0 for another trial, and two utterances, each an id or an id
  with an extension.

  Args:
    path: of the list; flag `--trials`.
    known_ids: [n] ids of the utterances of the corpus, in the order of rows.

  Raises:
    InputError: if the file cannot be read, a line is malformed, an utterance is
      not in the corpus, or the trials are not of both kinds.
  """
  try:
    lines = pathlib.Path(path).read_text('utf-8').splitlines()
  except (OSError, ValueError) as error:
    reason = getattr(error, 'strerror', None) or 'not UTF-8 text'
    raise InputError(
      f'--trials={path}: must be a list of trials ({reason}).'
    ) from error
  trials = []
  for number, line in enumerate(lines, 1):
    match = _LINE.fullmatch(line.strip())
    if match:
      trials.append(match.groups())
    elif line.strip():
      raise InputError(
        f'--trials={path}: line {number} must be 1 or 0 and two utterances, '
        f'got {line.strip()[:80]!r}.'
      )
  row_of = {str(name): row for row, name in enumerate(known_ids)}

  def find(name: str) -> int:
    return row_of.get(name, row_of.get(name.rpartition('.')[0], -1))

  target = np.array([label == '1' for label, _, _ in trials], bool)
  rows = [[find(name) for name in names] for _, *names in trials]
  pairs = np.array(rows, np.int64).reshape(-1, 2)
  absent = sorted(
    {name for _, *names in trials for name in names if find(name) < 0}
  )
  if absent:
    count = int((pairs < 0).any(axis=1).sum())
    raise InputError(
      f'--trials={path}: {count} of {len(trials)} trials name utterances that '
      f'are not in the corpus; {len(absent)} are not, such as '
      f'{", ".join(absent[:3])}.'
    )
  if not 0 < target.sum() < len(target):
    raise InputError(
      f'--trials={path}: {target.sum()} of {len(target)} trials are targets; '
      'must have some that are and some that are not.'
    )
  return Trials(target, pairs[:, 0], pairs[:, 1])


def make_trials(
  corpus: Corpus,
  rows: np.ndarray,
  *,
  max_trials: int,
  seed: int,
  same_keyword: bool = False,
) -> Trials:
  """Draws trials among utterances, half of them targets.

  A target is two utterances of one speaker, from different sessions where both
  sessions are known; another trial is one utterance of each of two speakers. No
  pair comes twice. Every speaker gives as many targets as every other, to
  within one, and as many of the other trials, as the speaker of the first
  utterance. One who has fewer gives all there are, so the trials may be fewer
  than asked.

  Speakers whose names begin with `_` are left out: they are no persons
  (`_background_noise_` in Speech Commands).

  Args:
    corpus: labels; no audio is read.
    rows: [m] utterances to pair, in any order.
    max_trials: at most so many, at least 2.
    seed: of the draws; the same one draws the same trials.
    same_keyword: pair utterances of the same keyword only, as for
      text-dependent verification.

  Raises:
    InputError: if there is no target or no other trial.
    ValueError: if `max_trials` is below 2.
  """
  if max_trials < 2:
    raise ValueError(f'max_trials must be at least 2, got {max_trials}.')
  rows = np.unique(rows)
  is_person = np.array([not name.startswith('_') for name in corpus.speakers])
  rows = rows[is_person[corpus.speaker[rows]]]
  text = corpus.keyword if same_keyword else np.zeros(len(corpus), np.int32)
  by_text = [rows[text[rows] == i] for i in np.unique(text[rows])]
  rng = np.random.default_rng(seed)
  speakers = rng.permutation(np.unique(corpus.speaker[rows]))
  # The most that every speaker gives; they add up to half of all.
  ends = np.linspace(0, max_trials // 2, len(speakers) + 1).astype(np.int64)
  quotas = dict(zip(speakers.tolist(), np.diff(ends).tolist(), strict=True))
  target_pairs = _draw_targets(corpus, by_text, quotas, rng)
  other_pairs = _draw_others(corpus, by_text, quotas, rng)
  if not len(target_pairs) or not len(other_pairs):
    raise InputError(
      f'corpus {corpus.name}: {len(rows)} utterances of {len(speakers)} '
      f'speakers give {len(target_pairs)} target and {len(other_pairs)} other '
      'trials; must give some of both: two speakers, and one with two '
      'utterances (of different sessions where these are known).'
    )
  target = np.repeat([True, False], [len(target_pairs), len(other_pairs)])
  pairs = np.concatenate([target_pairs, other_pairs])
  return Trials(target, pairs[:, 0], pairs[:, 1])


def _draw_targets(corpus, by_text, quotas, rng):
  """Draws up to a quota of each speaker's pairs, [pairs, 2] rows."""
  is_known = np.array([bool(name) for name in corpus.sessions])
  drawn = [np.empty((0, 2), np.int64)]
  for speaker, quota in quotas.items():
    parts = []
    for group in by_text:
      own = group[corpus.speaker[group] == speaker]
      first, second = np.triu_indices(len(own), 1)
      parts.append(np.stack([own[first], own[second]], axis=1))
    pairs = np.concatenate(parts)
    one, two = corpus.session[pairs].T
    pairs = pairs[~(is_known[one] & (one == two))]
    drawn.append(pairs[rng.permutation(len(pairs))[:quota]])
  return np.concatenate(drawn)


def _draw_others(corpus, by_text, quotas, rng):
  """Draws up to a quota of pairs that begin with each speaker, likewise."""
  seen = set()
  for speaker, quota in quotas.items():
    is_own = [corpus.speaker[group] == speaker for group in by_text]
    own = [g[mask] for g, mask in zip(by_text, is_own, strict=True)]
    rest = [g[~mask] for g, mask in zip(by_text, is_own, strict=True)]
    # More than needed: some may have been drawn from the other side.
    pairs = _draw_product(own, rest, 4 * quota, rng)
    seen.update([pair for pair in pairs if pair[::-1] not in seen][:quota])
  return np.array(sorted(seen), np.int64).reshape(-1, 2)


def _draw_product(
  firsts: list[np.ndarray],
  seconds: list[np.ndarray],
  size: int,
  rng: np.random.Generator,
) -> list[tuple[int, int]]:
  """Draws different pairs of the union of products, at most `size`."""
  sizes = [len(a) * len(b) for a, b in zip(firsts, seconds, strict=True)]
  ends = np.cumsum(sizes)
  drawn = rng.choice(ends[-1], min(size, ends[-1]), replace=False)
  block = np.searchsorted(ends, drawn, side='right')
  pairs = []
  for i, place in zip(block, drawn - (ends - sizes)[block], strict=True):
    first, second = divmod(int(place), len(seconds[i]))
    pairs.append((int(firsts[i][first]), int(seconds[i][second])))
  return pairs
