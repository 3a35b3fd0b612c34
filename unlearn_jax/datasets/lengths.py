"""Utterances of similar length together: less silence to compute on."""

from collections.abc import Iterator, Sequence

import numpy as np

from unlearn_jax.datasets.batches import Call
from unlearn_jax.datasets.batches import IndexBatches


def length_buckets(
  lengths: np.ndarray, ratio: float = 1.25
) -> list[tuple[int, np.ndarray]]:
  """Groups utterances of similar length, to score each of them whole.

  A network is compiled for few lengths: an utterance becomes one crop, begun
  at 0, of the length of the longest of its bucket, and so is repeated to at
  most `ratio` of itself.

  Args:
    lengths: [n] frames, at least 1.
    ratio: of the longest to the shortest of a bucket, at least 1.

  Returns:
    pairs (crop_frames, rows), shortest first; each row is in one of them.
  """
  if not ratio >= 1:
    raise ValueError(f'ratio must be at least 1, got {ratio}.')
  lengths = np.asarray(lengths)
  order = np.argsort(-lengths, kind='stable')
  buckets = []
  while len(order):
    longest = lengths[order[0]]
    inside = lengths[order] * ratio >= longest
    buckets.append((int(longest), np.sort(order[inside])))
    order = order[~inside]
  return buckets[::-1]


def by_length(
  epoch: Call, lengths: np.ndarray, rng: np.random.Generator
) -> Call:
  """Moves the rows of an epoch into batches of similar length.

  Each set keeps its rows and how much of it is padding. Rows move among
  neighbouring steps alone, which have batches of the same sets and no row of a
  set twice: a small set that comes again and again stays as mixed as it was.

  Args:
    epoch: batches [steps, batch] of each set, or None.
    lengths: [n] of all utterances.
    rng: decides the order among equals, and that of neighbouring steps.
  """
  lengths = np.asarray(lengths)
  moved = [
    side if side is None else IndexBatches(*map(np.array, side))
    for side in epoch
  ]
  sides = [side for side in moved if side is not None]
  for start, stop in _neighbours(sides):
    order = rng.permutation(stop - start)
    for side in sides:
      rows, mask = side.rows[start:stop], side.mask[start:stop]
      real = mask > 0
      mixed = rng.permutation(rows[real])
      rows[real] = mixed[np.argsort(lengths[mixed], kind='stable')]
      rows[:], mask[:] = rows[order], mask[order]
  forget, retain = moved
  return forget, retain


def _neighbours(sides: Sequence[IndexBatches]) -> Iterator[tuple[int, int]]:
  """Yields (start, stop) of the steps among which rows may move."""
  start, kind = 0, None
  seen: list[set[int]] = []
  for step in range(len(sides[0].rows)):
    rows = [set(side.rows[step][side.mask[step] > 0]) for side in sides]
    ended = kind is not None and (
      kind != [bool(of) for of in rows]
      or any(map(set.intersection, rows, seen))
    )
    if ended:
      yield start, step
    if ended or kind is None:
      start, kind, seen = step, [bool(of) for of in rows], rows
    else:
      seen = list(map(set.union, seen, rows))
  yield start, len(sides[0].rows)
