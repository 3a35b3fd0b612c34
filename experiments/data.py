"""Features of a corpus: on the device or on disk, whole or in crops."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import pathlib
from typing import cast, Literal

import jax.numpy as jnp
import numpy as np

from unlearn_jax.datasets import crops
from unlearn_jax.datasets import streaming
from unlearn_jax.datasets import waveforms
from unlearn_jax.datasets.corpus import Corpus
from unlearn_jax.datasets.lengths import length_buckets
from unlearn_jax.features.log_mel import LogMelConfig
from unlearn_jax.features.store import load_features
from unlearn_jax.features.utterances import load_utterances
from unlearn_jax.models.pretrained.front_end import FrontEnd
from unlearn_jax.models.pretrained.front_end import SAMPLE_RATE_HZ
from unlearn_jax.types import Batch, InputError

Frames = Literal['ordered', 'shuffled', 'averaged']
# Numbers that are evaluated at a time, and how many examples that may be. More
# waveforms at once leave the cache of a CPU, which takes half as long again.
_BATCH_NUMBERS, _FEWEST, _MOST = 2**20, 64, 256


@dataclasses.dataclass(frozen=True)
class Reading:
  """How utterances of varying length are read.

  Attributes:
    crop_ms: length of a crop in training.
    score_crops: crops over which scores are averaged; 0 scores whole
      utterances.
    where: 'device', 'stream', or 'auto' by size.
    workers: processes that read a stream; 0 is threads alone.
    length_buckets: batches are of similar length.
  """

  crop_ms: float
  score_crops: int
  where: str = 'auto'
  workers: int = 0
  length_buckets: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
  """Features and labels, in training and for scoring.

  Attributes:
    examples: what the network reads, and `label`, to be indexed by rows of the
      corpus; utterances of varying length stand there as crops.
    reading: of such utterances.
    input_name: of what the network reads: `features` or `waveform`.
  """

  examples: Batch
  reading: Reading
  input_name: str = 'features'

  @property
  def input_shape(self) -> tuple[int, ...]:
    """Returns [frames, bins] or [samples] of an example in training."""
    return self.examples[self.input_name].shape[1:]

  def training(self, seed: Sequence[int]) -> crops.Examples:
    """Returns what `fit` takes: new crops every epoch, if there are any.

    Args:
      seed: of the crops.
    """
    if isinstance(self.examples[self.input_name], streaming.CropsOnDisk):
      return streaming.Stream(
        self.examples, seed=seed, workers=self.reading.workers
      )
    return crops.Examples(self.examples, seed=seed, in_buckets=self.in_buckets)

  @property
  def in_buckets(self) -> bool:
    """Says whether batches are of similar length."""
    varies = hasattr(self.examples[self.input_name], 'cropped')
    return self.reading.length_buckets and varies

  def score(
    self, fun: Callable[[Batch, np.ndarray], np.ndarray], rows: np.ndarray
  ) -> np.ndarray:
    """Calls fun(examples, rows) on batches of two sizes; means over crops.

    Args:
      fun: returns an array [batch, ...].
      rows: [n] of the corpus.

    Returns:
      [n, ...]; [0] where there are no rows.
    """
    total = np.empty(0)
    for share, examples, mine in self._views(rows):
      numbers = int(np.prod(examples[self.input_name].shape[1:]))
      batch = min(max(_BATCH_NUMBERS // max(1, numbers), _FEWEST), _MOST)
      if len(mine) <= _FEWEST:
        batch = _FEWEST
      size = -(-len(mine) // batch) * batch
      padded = np.zeros(size, int)
      padded[: len(mine)] = rows[mine]
      parts = [
        np.asarray(fun(examples, part)) for part in padded.reshape(-1, batch)
      ]
      if not parts:
        continue
      found = np.concatenate(parts)[: len(mine)]
      if not len(total):
        total = np.zeros((len(rows), *found.shape[1:]), found.dtype)
      total[mine] += found.dtype.type(share) * found
    return total

  def _views(
    self, rows: np.ndarray
  ) -> Iterator[tuple[float, Batch, np.ndarray]]:
    """Yields what to score: its weight, the examples, and which of the rows."""
    features, everyone = self.examples[self.input_name], np.arange(len(rows))
    if not hasattr(features, 'cropped'):
      yield 1.0, self.examples, everyone
      return
    examples = crops.Examples(self.examples)
    lengths, count = features.lengths, self.reading.score_crops
    if count:
      starts = crops.even_starts(lengths, features.crop_frames, count)
      for start in starts:
        yield 1 / count, examples.cropped(start), everyone
      return
    for frames, of_bucket in self._buckets:
      mine = np.flatnonzero(np.isin(rows, of_bucket))
      start = np.zeros(len(lengths), np.int32)
      yield 1.0, examples.cropped(start, frames), mine

  @functools.cached_property
  def _buckets(self):
    return length_buckets(self.examples[self.input_name].lengths)


def arranged(features: np.ndarray, frames: Frames) -> np.ndarray:
  """Destroys the order of the frames, to see what depends on it.

  Args:
    features: [n, frames, bins].
    frames: 'ordered' changes nothing; 'shuffled' puts the frames of each
      example in an order of its own, the same in every run; 'averaged' puts
      their mean in the place of each.

  Returns:
    an array like `features`.
  """
  if frames == 'averaged':
    mean = np.mean(features, 1, np.float32, keepdims=True)
    return np.broadcast_to(mean.astype(features.dtype), features.shape)
  if frames == 'shuffled':
    order = np.tile(np.arange(features.shape[1]), (len(features), 1))
    order = np.random.default_rng(0).permuted(order, axis=1)
    return np.take_along_axis(features, order[:, :, None], 1)
  return features


def load(
  corpus: Corpus,
  label: np.ndarray,
  config: LogMelConfig,
  cache_dir: pathlib.Path,
  reading: Reading,
  frames: Frames = 'ordered',
) -> Data:
  """Computes the features of a corpus, or finds them computed.

  Args:
    corpus: of one length, or of varying lengths.
    label: [n] int.
    config: the front end.
    cache_dir: folder for features.
    reading: of utterances of varying length.
    frames: of each example, see `arranged`.

  Raises:
    InputError: if an utterance is shorter than a frame, or a crop would be, or
      frames of varying number are to be rearranged.
  """
  examples: Batch = {'label': jnp.asarray(label, jnp.int32)}
  if corpus.num_samples is not None:
    features = corpus.features
    if features is None:
      features = load_features(corpus, config, cache_dir)
    in_place = jnp.asarray(arranged(features, frames))
    return Data(examples | {'features': in_place}, reading)
  if frames != 'ordered':
    raise InputError(
      f'--frames={frames}: must be ordered for {corpus.name}, whose utterances '
      'vary in length.'
    )
  samples = round(reading.crop_ms * config.sample_rate_hz / 1_000)
  if samples < config.window_samples:
    raise InputError(
      f'--crop_ms={reading.crop_ms:g}: must be at least one frame, '
      f'{config.window_ms:g}.'
    )
  crop_frames = config.num_frames(samples)
  utterances = load_utterances(corpus, config, cache_dir)
  where = cast(streaming.Where, reading.where)
  if streaming.streams(utterances.nbytes, where):
    return Data(
      examples | {'features': utterances.on_disk(crop_frames)}, reading
    )
  return Data(examples | {'features': utterances.crops(crop_frames)}, reading)


def load_waveforms(
  corpus: Corpus,
  label: np.ndarray,
  front_end: FrontEnd,
  shortest: int,
  reading: Reading,
) -> Data:
  """Reads the recordings of a corpus, for a network that reads waveforms.

  Args:
    corpus: of one length, or of varying lengths.
    label: [n] int.
    front_end: of the network.
    shortest: samples that it needs.
    reading: of utterances of varying length.

  Raises:
    InputError: if there is no sound, or a recording is too short or too long.
  """
  if corpus.features is not None:
    raise InputError(
      f'--dataset={corpus.name}: has no sound, and --model reads waveforms.'
    )
  crop_samples = round(reading.crop_ms * SAMPLE_RATE_HZ / 1_000)
  if crop_samples < shortest:
    raise InputError(
      f'--crop_ms={reading.crop_ms:g}: must be at least '
      f'{1_000 * shortest / SAMPLE_RATE_HZ:g} for this model.'
    )
  examples = waveforms.load(
    corpus, crop_samples, shortest=shortest, longest=front_end.longest
  )
  examples['label'] = jnp.asarray(label, jnp.int32)
  return Data(examples, reading, 'waveform')
