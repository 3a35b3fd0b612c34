"""Crops of a fixed length from utterances of any length.

All utterances lie one after another in one array on the device, and a batch is
gathered from it: `Crops` stands among the examples in the place of an array
[utterances, frames, bins] and is indexed like one. Training draws one crop of
each utterance anew every epoch. An utterance shorter than a crop is repeated.
"""

from collections.abc import Callable, Generator, Sequence
import dataclasses
from typing import Any, Protocol, Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.datasets.batches import Call
from unlearn_jax.datasets.lengths import length_buckets
from unlearn_jax.types import Array, Batch

_RATIO = 1.5  # Of lengths in training: each length is a program of its own.


class Cuttable:
  """What crops of utterances on the device have in common."""

  length: Array
  crop_frames: int
  replace: Callable[..., Self]

  @property
  def lengths(self) -> np.ndarray:
    """Returns the frames of each utterance, [n], in the host's memory."""
    return np.asarray(self.length)

  def cropped(self, start: Array, crop_frames: int) -> Self:
    """Returns other crops of the same utterances, begun at `start` [n]."""
    start = jnp.asarray(start, jnp.int32)
    return self.replace(start=start, crop_frames=crop_frames)


class Crops(Cuttable, flax.struct.PyTreeNode):
  """Utterances on the device; `crops[rows]` gathers one crop of each row.

  Attributes:
    frames: [total_frames, bins], utterance after utterance.
    offset: [n] int32, the first frame of each utterance.
    length: [n] int32, its frames, at least 1.
    start: [n] int32, where its crop begins, counted from `offset`.
    crop_frames: of every crop.
  """

  frames: Array
  offset: Array
  length: Array
  start: Array
  crop_frames: int = flax.struct.field(pytree_node=False)

  @property
  def shape(self) -> tuple[int, int, int]:
    """Returns (n, crop_frames, bins)."""
    return len(self.start), self.crop_frames, self.frames.shape[-1]

  @property
  def dtype(self) -> Any:
    """Returns the type of the features."""
    return self.frames.dtype

  def __getitem__(self, rows: Array) -> jax.Array:
    """Returns the crops of `rows` [...]: [..., crop_frames, bins]."""
    offset, length, start = (
      jnp.asarray(x)[rows][..., None]
      for x in (self.offset, self.length, self.start)
    )
    index = jnp.arange(self.crop_frames, dtype=jnp.int32)
    index = index.reshape(*[1] * (offset.ndim - 1), -1)
    frames = jnp.asarray(self.frames)
    return frames.at[offset + (start + index) % length].get(
      mode='promise_in_bounds'
    )


def cut(frames: np.ndarray, start: int, crop_frames: int) -> np.ndarray:
  """Returns a crop [crop_frames, bins] of one utterance [frames, bins]."""
  if len(frames) >= start + crop_frames:
    return frames[start : start + crop_frames]
  return frames[(start + np.arange(crop_frames)) % len(frames)]


def random_starts(
  lengths: np.ndarray, crop_frames: int, *, seed: Sequence[int], epoch: int
) -> np.ndarray:
  """Draws where the crop of each utterance begins, uniformly.

  The start of an utterance depends on its row and length, the seed and the
  epoch alone: not on the other utterances, nor on the order of training.

  Args:
    lengths: [n] frames, at least 1.
    crop_frames: at least 1.
    seed: non-negative integers.
    epoch: from 0.

  Returns:
    [n] int32 in [0, max(0, length - crop_frames)].
  """
  # Every double takes one draw, so row i has the i-th whatever the lengths.
  uniform = np.random.default_rng([*seed, epoch]).random(len(lengths))
  room = _room(lengths, crop_frames)
  return np.floor(uniform * (room + 1)).astype(np.int32)


def even_starts(lengths: np.ndarray, crop_frames: int, k: int) -> np.ndarray:
  """Returns the starts of k crops spread evenly, to average scores over.

  The first and the last crop touch the ends of the utterance; a single one
  lies in its middle.

  Args:
    lengths: [n] frames, at least 1.
    crop_frames: at least 1.
    k: crops of each utterance, at least 1.

  Returns:
    [k, n] int32.
  """
  if k < 1:
    raise ValueError(f'k must be at least 1, got {k}.')
  room = _room(lengths, crop_frames)
  if k == 1:
    return (room // 2)[None].astype(np.int32)
  return (np.arange(k)[:, None] * room[None] // (k - 1)).astype(np.int32)


def _room(lengths, crop_frames):
  lengths = np.asarray(lengths, np.int64)
  if crop_frames < 1 or (lengths < 1).any():
    raise ValueError(
      f'crop_frames and lengths must be at least 1, got {crop_frames} and '
      f'{lengths.min(initial=1)}.'
    )
  return np.maximum(0, lengths - crop_frames)


class Cropped(Protocol):
  """An array of crops: `Crops`, or `streaming.CropsOnDisk`."""

  @property
  def crop_frames(self) -> int:
    """Returns the frames of every crop."""

  @property
  def lengths(self) -> np.ndarray:
    """Returns the frames of each utterance, [n], in the host's memory."""

  def cropped(self, start: Array, crop_frames: int) -> 'Cropped':
    """Returns other crops of the same utterances, begun at `start` [n]."""


@dataclasses.dataclass(frozen=True)
class Examples:
  """Examples, among them utterances of which an epoch sees one crop each.

  Attributes:
    arrays: arrays [n, ...] and, in the place of one, a `Cropped` of n
      utterances.
    seed: of the crops, non-negative integers.
    in_buckets: crops of a step end with the longest utterance of its
      `length_buckets`, where that is shorter than a crop: for networks that
      know how much is sound. See `lengths.by_length`.
  """

  arrays: Batch
  seed: Sequence[int] = ()
  in_buckets: bool = False

  def cropped(self, start: Array, crop_frames: int | None = None) -> Batch:
    """Returns the examples with given crops, for `batches.take`.

    Args:
      start: [n], where the crop of each utterance begins.
      crop_frames: of every crop; None is as in training.
    """
    return self._map(lambda x: x.cropped(start, crop_frames or x.crop_frames))

  def at(self, epoch: int) -> Batch:
    """Returns the examples with the crops of an epoch, from 0."""

    def redraw(x):
      start = random_starts(
        x.lengths, x.crop_frames, seed=self.seed, epoch=epoch
      )
      return x.cropped(start, x.crop_frames)

    return self._map(redraw)

  def _map(self, fun):
    return {
      name: fun(x) if hasattr(x, 'cropped') else x
      for name, x in self.arrays.items()
    }

  def calls(
    self, calls: Sequence[Call], epoch: int
  ) -> Generator[tuple[Any, Any, Batch | None]]:
    """Yields (forget, retain, examples), as `training.loop.run` takes them.

    Args:
      calls: index batches of what is left of the epoch.
      epoch: from 0.
    """
    examples = self.at(epoch)
    ends = {
      name: _bucket_ends(x)
      for name, x in examples.items()
      if self.in_buckets and hasattr(x, 'cropped')
    }
    for call in calls:
      ended = {k: _ended(examples[k], call, of) for k, of in ends.items()}
      yield *call, examples | ended


def _heard(utterances):
  return np.minimum(utterances.lengths, utterances.crop_frames)


def _bucket_ends(utterances):
  """Returns the lengths that crops may have, ascending."""
  buckets = length_buckets(_heard(utterances), _RATIO)
  return [frames for frames, _ in buckets]


def _ended(utterances, call, ends):
  """Returns crops as short as the rows of a call allow."""
  rows = [side.rows[side.mask > 0] for side in call if side is not None]
  longest = _heard(utterances)[np.concatenate(rows)].max(initial=1)
  frames = next(end for end in ends if end >= longest)
  return utterances.cropped(utterances.start, frames)
