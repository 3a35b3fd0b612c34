"""Trials of speaker verification: pairs of utterances, of one speaker or two.

A trial is a target where one speaker said both. VoxCeleb1 has a list of its
own, `veri_test.txt`; for other corpora `evaluation.verification` draws one.
"""

from collections.abc import Iterable
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from unlearn_jax.types import InputError

_LINE = re.compile(r'([01])\s+(\S+)\s+(\S+)')


class Trials(NamedTuple):
  """Pairs of utterances, each by its row.

  Attributes:
    target: [m] bool, whether one speaker said both.
    first: [m] int64, of the one utterance.
    second: [m] int64, of the other.
  """

  target: np.ndarray
  first: np.ndarray
  second: np.ndarray


def read_trials(path: str | os.PathLike, known_ids: Iterable[str]) -> Trials:
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
