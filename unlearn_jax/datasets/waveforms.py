"""Waveforms of any length on the device, for networks that read them.

As in `crops`, all utterances lie one after another in one array, and stand
among the examples as something that is indexed by rows. An utterance shorter
than what is cut of it is followed by silence, and `Samples` says how much of it
is sound: networks with attention leave the rest out.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.datasets import crops
from unlearn_jax.datasets.corpus import Corpus
from unlearn_jax.types import Array, Batch, InputError

_CHUNK = 1_000  # Recordings read at a time.


class Waveforms(crops.Cuttable, flax.struct.PyTreeNode):
  """Recordings; `waveforms[rows]` gathers one crop of each row.

  Attributes:
    audio: [total_samples] int16, utterance after utterance.
    offset: [n] int32, the first sample of each utterance.
    length: [n] int32, its samples, at least 1.
    start: [n] int32, where its crop begins, counted from `offset`.
    crop_frames: samples of every crop, named as in `crops.Cropped`.
  """

  audio: Array
  offset: Array
  length: Array
  start: Array
  crop_frames: int = flax.struct.field(pytree_node=False)

  @property
  def shape(self) -> tuple[int, int]:
    """Returns (n, samples)."""
    return len(self.start), self.crop_frames

  @property
  def dtype(self) -> Any:
    """Returns the type of the samples."""
    return self.audio.dtype

  def __getitem__(self, rows: Array) -> jax.Array:
    """Returns the crops of `rows` [...]: [..., samples], silence behind."""
    offset, length, start = (
      jnp.asarray(x)[rows][..., None]
      for x in (self.offset, self.length, self.start)
    )
    index = jnp.arange(self.crop_frames, dtype=jnp.int32)
    place = start + index.reshape(*[1] * (offset.ndim - 1), -1)
    audio = jnp.asarray(self.audio)
    inside = jnp.minimum(place, length - 1)
    heard = audio.at[offset + inside].get(mode='promise_in_bounds')
    return jnp.where(place < length, heard, 0)


class Samples(crops.Cuttable, flax.struct.PyTreeNode):
  """How many samples of each crop are sound; the rest is silence.

  Attributes: as of `Waveforms`.
  """

  length: Array
  start: Array
  crop_frames: int = flax.struct.field(pytree_node=False)

  @property
  def shape(self) -> tuple[int]:
    """Returns (n,)."""
    return (len(self.start),)

  @property
  def dtype(self) -> Any:
    """Returns the type of a count."""
    return jnp.dtype(jnp.int32)

  def __getitem__(self, rows: Array) -> jax.Array:
    """Returns the counts of `rows` [...], int32 of that shape."""
    length, start = (jnp.asarray(x)[rows] for x in (self.length, self.start))
    return jnp.minimum(length - start, self.crop_frames)


def load(
  corpus: Corpus,
  crop_samples: int,
  *,
  shortest: int = 1,
  longest: int | None = None,
) -> Batch:
  """Reads a corpus whole.

  Args:
    corpus: recordings.
    crop_samples: of each crop in training, where recordings vary in length.
    shortest: samples that a network needs.
    longest: samples that it can hear; None is any number.

  Returns:
    `waveform`, int16, of recordings of one length [n, samples]; else
    `Waveforms`, and `Samples` as `samples`.

  Raises:
    InputError: if a recording is too short or too long.
  """
  for bad, row, allowed in (
    (lambda n: n < shortest, np.argmin(corpus.lengths), f'at least {shortest}'),
    (
      lambda n: longest is not None and n > longest,
      np.argmax(corpus.lengths),
      f'at most {longest}',
    ),
  ):
    if bad(corpus.lengths[row]):
      raise InputError(
        f'corpus {corpus.name}: {corpus.utterance_id[row]} must have {allowed} '
        f'samples for this model, got {corpus.lengths[row]}.'
      )
  total, ends = int(corpus.lengths.sum()), np.cumsum(corpus.lengths)
  if total >= 2**31:
    raise InputError(
      f'corpus {corpus.name}: has {total} samples, too many to index.'
    )
  audio = np.empty(total, np.int16)
  for rows in np.array_split(np.arange(len(corpus)), len(corpus) // _CHUNK + 1):
    if len(rows):
      first = ends[rows[0]] - corpus.lengths[rows[0]]
      part = audio[first : ends[rows[-1]]]
      part[:] = np.concatenate(corpus.read_utterances(rows))
  if corpus.num_samples is not None:
    return {'waveform': jnp.asarray(audio.reshape(len(corpus), -1))}
  length = jnp.asarray(corpus.lengths, jnp.int32)
  offset = jnp.asarray(ends - corpus.lengths, jnp.int32)
  start = jnp.zeros(len(corpus), jnp.int32)
  return {
    'waveform': Waveforms(
      jnp.asarray(audio), offset, length, start, crop_samples
    ),
    'samples': Samples(length, start, crop_samples),
  }
