"""What is asked of the embeddings of all models about their speakers.

Chosen once for a seed, of labels alone, so that all models answer the same
questions; `speaker_leakage.leakage` asks one.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import NamedTuple

import numpy as np

from unlearn_jax.datasets.trials import Trials
from unlearn_jax.evaluation import matching
from unlearn_jax.evaluation import verification

ENROLLED = (1, 5, 20)  # Clips of each speaker that an adversary has.
FOLDS = 5
_DRAWS, _SHUFFLES = 20, 5


class Probe(NamedTuple):
  """A forgotten speaker among as many utterances of retained ones.

  Attributes:
    rows: [m] utterances, in the order of the panel.
    is_own: [m] bool, the forgotten speaker.
    shuffled: [shuffles, m] bool, the same in random order within each fold.
  """

  rows: np.ndarray
  is_own: np.ndarray
  shuffled: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
  """What is asked of every model.

  Attributes:
    order: [n] rows of the embeddings in the order of the panel.
    speaker: [n] int in [0, speakers), in this order, as all that follows.
    forgotten: of the speakers, those that are to be forgotten.
    fold: [n] int; a session of a speaker is in one fold.
    trials: of verification, by 'forgotten' and 'retained' target speakers.
    probes: one of each forgotten speaker.
    enrolled: [draws, speakers, 20]; of five utterances, the first five.
  """

  order: np.ndarray
  speaker: np.ndarray
  forgotten: tuple[int, ...]
  fold: np.ndarray
  trials: Mapping[str, Trials]
  probes: tuple[Probe, ...]
  enrolled: np.ndarray


def make_panel(
  speaker: np.ndarray,
  session: np.ndarray | None,
  keyword: np.ndarray | None,
  forgotten: Sequence[int] | Sequence[str],
  *,
  seed: int,
) -> Panel:
  """Chooses trials, folds and enrolments.

  Give it those of the forgotten speakers from the forget set and the test set,
  and those of retained speakers from the test set: a retrained model has seen
  none of them. The original model has seen the forget set, so what it tells of
  a forgotten speaker includes what it memorised. Their order does not matter
  where no two have the same three labels.

  Args:
    speaker: [n].
    session: [n], in which session of its speaker, or which take; None where
      that is not known, and every utterance counts for a session of its own.
    keyword: [n], what is said; None where that is not known.
    forgotten: speakers; none where what is forgotten is not a speaker.
    seed: of all choices.

  Raises:
    ValueError: if the labels differ in number, or there are none, or a
      forgotten speaker has no utterance.
  """
  labels = [x for x in (speaker, session, keyword) if x is not None]
  if len(sizes := {len(x) for x in labels}) > 1 or not len(speaker):
    raise ValueError(
      f'labels must be of the same utterances, at least one, got {sizes}.'
    )
  names, who = np.unique(speaker, return_inverse=True)
  if absent := set(forgotten) - set(names.tolist()):
    raise ValueError(f'forgotten speaker {absent.pop()} has no utterance.')
  when = np.arange(len(who)) if session is None else _numbered(session)
  what = np.zeros(len(who), int) if keyword is None else _numbered(keyword)
  order = np.lexsort((what, when, who))
  who, when, what = who[order], when[order], what[order]
  gone = tuple(np.flatnonzero([name in forgotten for name in names]).tolist())
  is_gone = np.isin(who, gone)
  rng = np.random.default_rng(seed)
  fold = _folds(who, when, rng)
  sides = {'retained': (~is_gone, ~is_gone)}
  if gone:
    sides['forgotten'] = is_gone, np.full(len(who), True)
  return Panel(
    order=order,
    speaker=who,
    forgotten=gone,
    fold=fold,
    trials={
      side: verification.make_trials(who, when, what, *of, seed=seed)
      for side, of in sides.items()
    },
    probes=tuple(
      _make_probe(who == s, ~is_gone, what, fold, rng) for s in gone
    ),
    enrolled=np.stack([_draws(who == s, rng) for s in range(len(names))], 1),
  )


def _numbered(labels):
  return np.unique(labels, return_inverse=True)[1]


def _folds(speaker, session, rng):
  """Deals the sessions of each speaker to the folds, as evenly as it goes."""
  fold = np.zeros(len(speaker), int)
  for s in np.unique(speaker):
    mine = speaker == s
    number = _numbered(session[mine])
    dealt = rng.permutation(number.max() + 1) % FOLDS
    fold[mine] = rng.permutation(FOLDS)[dealt[number]]
  return fold


def _make_probe(is_own, is_other, keyword, fold, rng):
  """Pairs the utterances of a speaker with others of the same keyword."""
  sides = np.flatnonzero(is_own), np.flatnonzero(is_other)
  pairs = matching.match(
    *([keyword[rows]] for rows in sides), seed=int(rng.integers(2**31))
  )
  rows = np.concatenate([side[i] for side, i in zip(sides, pairs, strict=True)])
  own = np.arange(len(rows)) < len(pairs[0])
  shuffled = np.tile(own, (_SHUFFLES, 1))
  # Within folds, so that the labels of one tell nothing of those of another.
  for k in range(FOLDS):
    mine = fold[rows] == k
    shuffled[:, mine] = rng.permuted(shuffled[:, mine], axis=1)
  return Probe(rows, own, shuffled)


def _draws(is_own, rng):
  """Returns random utterances of a speaker, [draws, 20]; all, if too few."""
  rows = np.flatnonzero(is_own)
  drawn = rng.permuted(np.tile(rows, (_DRAWS, 1)), axis=1)
  return drawn[:, np.arange(max(ENROLLED)) % len(rows)]
