"""Features of utterances of any length, computed once, a record each.

A corpus becomes one ArrayRecord file of float16 log-mels, of which any
utterance can be read without the others: `Utterances.crops` brings all of them
to the device, `Utterances.on_disk` leaves them where they are.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import errno
import functools
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.datasets.corpus import Corpus
from unlearn_jax.datasets.crops import Crops
from unlearn_jax.datasets.lengths import length_buckets
from unlearn_jax.datasets.streaming import CropsOnDisk
from unlearn_jax.features import store
from unlearn_jax.features.log_mel import log_mel
from unlearn_jax.features.log_mel import LogMelConfig
from unlearn_jax.types import InputError

# Log-mels in float16 shrink to 4/5 at most, and reading them takes longer.
RECORD_OPTIONS = 'group_size:1,uncompressed'
# Audio that is computed at a time, in samples, padding included: 66 s.
_BLOCK_SAMPLES = 2**20

_log_mel = jax.jit(log_mel, static_argnames='config')


@dataclasses.dataclass(frozen=True, eq=False)
class Utterances:
  """Features of utterances on disk.

  Attributes:
    path: of an ArrayRecord file of one record an utterance, its frames in
      little-endian float16.
    num_frames: [n] int64, of each utterance, at least 1.
    num_bins: of each frame.
  """

  path: pathlib.Path
  num_frames: np.ndarray
  num_bins: int

  def __len__(self) -> int:
    """Returns how many utterances there are."""
    return len(self.num_frames)

  @property
  def nbytes(self) -> int:
    """Bytes of all features."""
    return int(self.num_frames.sum()) * self.num_bins * 2

  @functools.cached_property
  def _records(self) -> Any:  # Thread-safe, and opened anew where unpickled.
    from array_record.python import array_record_data_source

    return array_record_data_source.ArrayRecordDataSource(self.path)

  def read(self, rows: np.ndarray) -> list[np.ndarray]:
    """Reads the utterances of `rows`, float16 [frames, bins] each.

    Raises:
      InputError: if a record is damaged, or not as long as it should be.
    """
    rows = np.asarray(rows)
    if not len(rows):
      return []
    try:
      records = self._records.__getitems__(rows.tolist())
    except RuntimeError as error:  # Its checksum is wrong.
      raise InputError(
        f'{self.path}: must be whole, remove it ({_first_part(error)}).'
      ) from error
    for row, record in zip(rows, records, strict=True):
      have, want = len(record), self.num_frames[row] * self.num_bins * 2
      if have != want:
        raise InputError(
          f'{self.path}: record {row} must have {want} bytes, got {have}; '
          'remove the file.'
        )
    return [
      np.frombuffer(record, '<f2').reshape(-1, self.num_bins)
      for record in records
    ]

  def crops(self, crop_frames: int) -> Crops:
    """Brings all utterances to the device; memory for twice their size."""
    total = int(self.num_frames.sum())
    if total >= 2**31:
      raise InputError(f'{self.path}: has {total} frames, too many to index.')
    frames = np.empty((total, self.num_bins), np.float16)
    ends = np.cumsum(self.num_frames)
    for rows in np.array_split(np.arange(len(self)), len(self) // 1_000 + 1):
      if len(rows):
        first = ends[rows[0]] - self.num_frames[rows[0]]
        frames[first : ends[rows[-1]]] = np.concatenate(self.read(rows))
    return Crops(
      frames=jnp.asarray(frames),
      offset=jnp.asarray(ends - self.num_frames, jnp.int32),
      length=jnp.asarray(self.num_frames, jnp.int32),
      start=jnp.zeros(len(self), jnp.int32),
      crop_frames=crop_frames,
    )

  def on_disk(self, crop_frames: int) -> CropsOnDisk:
    """Leaves all utterances on disk, to be read as they are needed."""
    return CropsOnDisk(jnp.zeros(len(self), jnp.int32), self, crop_frames)


def load_utterances(
  corpus: Corpus,
  config: LogMelConfig,
  cache_dir: str | os.PathLike,
  *,
  chunk: int = 256,
  progress: store.Progress | None = None,
) -> Utterances:
  """Returns the log-mels of every utterance, computing them at most once.

  The file appears under its name only when complete, as that of
  `store.load_features` does. Memory in use is that of one chunk.

  Args:
    corpus: its audio is read only where there is no cache file.
    config: the front end.
    cache_dir: created where absent; flag `--cache_dir`.
    chunk: utterances read and computed at a time.
    progress: called as progress(utterances_done, utterances).

  Raises:
    InputError: if the folder cannot be written, the sample rates differ, or an
      utterance is shorter than a window.
    ValueError: if `chunk` is not positive.
  """
  store.check(corpus, config, chunk)
  shortest = int(np.argmin(corpus.lengths))
  if corpus.lengths[shortest] < config.window_samples:
    raise InputError(
      f'corpus {corpus.name}: {corpus.utterance_id[shortest]} must have at '
      f'least one window, {config.window_samples} samples, got '
      f'{corpus.lengths[shortest]}.'
    )
  path = store.cache_path(corpus, config, cache_dir, '.array_record')
  frames = np.array([config.num_frames(int(n)) for n in corpus.lengths])
  if _num_records(path) != len(corpus):
    features = _compute(corpus, config, chunk, progress)
    store.write_whole(path, lambda partial: write_records(partial, features))
  return Utterances(path, frames, config.num_mels)


def write_records(path: pathlib.Path, features: Iterator[np.ndarray]) -> None:
  """Writes utterances [frames, bins] as float16 records, in their order.

  Raises:
    OSError: if the disk is full, and the like.
  """
  from array_record.python import array_record_module

  @contextlib.contextmanager
  def as_os_error():
    try:
      yield
    except RuntimeError as error:
      raise OSError(errno.EIO, _first_part(error), str(path)) from error

  writer = array_record_module.ArrayRecordWriter(str(path), RECORD_OPTIONS)
  try:
    for utterance in features:
      record = np.asarray(utterance).astype('<f2').tobytes()
      with as_os_error():
        writer.write(record)
  finally:
    with as_os_error():
      writer.close()


def _first_part(error):
  return str(error).partition(';')[0]


def _num_records(path):
  """Returns the number of records of a whole file, else 0."""
  from array_record.python import array_record_module

  if not path.exists():
    return 0
  reader = array_record_module.ArrayRecordReader(str(path))
  count = reader.num_records()
  try:
    reader.close()
  except RuntimeError:  # Says only here that the file is damaged.
    return 0
  return count


def _compute(corpus, config, chunk, progress):
  """Yields the log-mels of one utterance after another."""
  samples = np.empty(len(corpus), np.int64)  # What each is padded to.
  for length, rows in length_buckets(corpus.lengths):
    samples[rows] = length
  for first in range(0, len(corpus), chunk):
    rows = np.arange(first, min(first + chunk, len(corpus)))
    made: dict[int, np.ndarray] = {}
    audio = corpus.read_utterances(rows)
    for length in np.unique(samples[rows]):
      inside = np.flatnonzero(samples[rows] == length)
      size = max(1, min(_BLOCK_SAMPLES // int(length), chunk))
      for some in np.array_split(inside, range(size, len(inside), size)):
        features = _padded_log_mel(
          [audio[i] for i in some], size, int(length), config
        )
        made |= dict(zip(some.tolist(), features, strict=True))
    for i in range(len(rows)):
      yield made.pop(i)
    if progress is not None:
      progress(int(rows[-1]) + 1, len(corpus))


def _padded_log_mel(audio, size, length, config):
  """Returns the log-mels of utterances, computed as [size, length] samples.

  Frames that would see padding are left out; a frame sees nothing else than
  its own window.
  """
  block = np.zeros((size, length), np.int16)
  for to, samples in zip(block, audio, strict=False):
    to[: len(samples)] = samples
  features = np.asarray(_log_mel(block, config))
  return [
    features[i, : config.num_frames(len(samples))].astype(np.float16)
    for i, samples in enumerate(audio)
  ]
