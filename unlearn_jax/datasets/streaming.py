"""Crops read from disk while the device works, through Grain.

A corpus whose features do not fit the device is read utterance by utterance
from its records, in the order in which training visits them. What arrives is
bit for bit what `batches.take` gathers from `crops.Crops`.
"""

from collections.abc import Generator, Sequence
import contextlib
import dataclasses
import functools
import os
import pathlib
from typing import Any, Literal, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.datasets import crops as crops_lib
from unlearn_jax.datasets.batches import Call
from unlearn_jax.datasets.batches import IndexBatches
from unlearn_jax.types import Array, Batch

Where = Literal['auto', 'device', 'stream']


class Utterances(Protocol):
  """Features of utterances on disk; pickled where workers read them."""

  @property
  def num_frames(self) -> np.ndarray:
    """Returns the frames of each utterance, [n]."""

  @property
  def num_bins(self) -> int:
    """Returns the bins of each frame."""

  def read(self, rows: np.ndarray) -> list[np.ndarray]:
    """Reads utterances, float16 [frames, bins] each."""


def read_crops(
  utterances: Utterances, crop_frames: int, rows: Array, start: Array
) -> np.ndarray:
  """Reads one crop of each row, float16 [..., crop_frames, bins].

  Args:
    utterances: on disk.
    crop_frames: of every crop.
    rows: [...], of `utterances`; one that comes twice is read once.
    start: [...], the first frame of each crop.
  """
  rows, start = np.asarray(rows), np.asarray(start)
  unique, which = np.unique(rows, return_inverse=True)
  records = utterances.read(unique)
  crops = np.empty((rows.size, crop_frames, utterances.num_bins), np.float16)
  for crop, record, first in zip(
    crops, which.ravel(), start.ravel(), strict=True
  ):
    crop[:] = crops_lib.cut(records[record], int(first), crop_frames)
  return crops.reshape(*rows.shape, *crops.shape[1:])


class CropsOnDisk(flax.struct.PyTreeNode):
  """Stands in for `Crops`: `crops[rows]` reads them, also in compiled code.

  The device waits for each batch: for whole passes by a method's `prepare` and
  for evaluation. `Stream` reads ahead.

  Attributes:
    start: [n] int32, where the crop of each utterance begins.
    utterances: on disk.
    crop_frames: of every crop.
  """

  start: Array
  utterances: Utterances = flax.struct.field(pytree_node=False)
  crop_frames: int = flax.struct.field(pytree_node=False)

  @property
  def shape(self) -> tuple[int, int, int]:
    """Returns (n, crop_frames, bins)."""
    return len(self.start), self.crop_frames, self.utterances.num_bins

  @property
  def dtype(self) -> Any:
    """Returns the type of the features."""
    return jnp.dtype(jnp.float16)

  @property
  def lengths(self) -> np.ndarray:
    """Returns the frames of each utterance, [n]."""
    return self.utterances.num_frames

  def cropped(self, start: Array, crop_frames: int) -> 'CropsOnDisk':
    """Returns other crops of the same utterances, begun at `start` [n]."""
    start = jnp.asarray(start, jnp.int32)
    return self.replace(start=start, crop_frames=crop_frames)

  def __getitem__(self, rows: Array) -> jax.Array:
    """Reads the crops of `rows` [...]: [..., crop_frames, bins]."""
    rows = jnp.asarray(rows)
    read = functools.partial(read_crops, self.utterances, self.crop_frames)
    shape = jax.ShapeDtypeStruct((*rows.shape, *self.shape[1:]), self.dtype)
    start = jnp.asarray(self.start)[rows]
    return jax.pure_callback(
      read, shape, rows, start, vmap_method='broadcast_all'
    )


@dataclasses.dataclass(frozen=True)
class Stream(crops_lib.Examples):
  """Examples whose utterances stay on disk, read ahead in training.

  Attributes:
    arrays: arrays [n, ...] in memory, and a `CropsOnDisk` of n utterances.
    seed: of the crops, non-negative integers.
    ahead: calls of the compiled loop that are prepared while one runs, each by
      a thread of its own, at least 1. Memory grows with it.
    workers: processes that read; 0 reads in threads of this one. Each has
      `ahead` threads.
  """

  ahead: int = 2
  workers: int = 0

  def __post_init__(self):
    """Raises ValueError where a value is out of bounds."""
    for name, low in ('ahead', 1), ('workers', 0):
      if getattr(self, name) < low:
        raise ValueError(
          f'{name} must be at least {low}, got {getattr(self, name)}.'
        )

  def calls(
    self, calls: Sequence[Call], epoch: int
  ) -> Generator[tuple[Any, Any, Batch | None]]:
    """Yields (forget, retain, None), stacked as `training.loop.run` takes them.

    Args:
      calls: index batches of what is left of the epoch.
      epoch: from 0.
    """
    from absl import flags
    import grain  # Heavy, and not needed by what fits the device.

    if not flags.FLAGS.is_parsed():  # Grain's workers read flags of its own.
      flags.FLAGS.mark_as_parsed()
    in_memory = {
      name: np.asarray(x) for name, x in self.arrays.items() if not _is_crops(x)
    }
    on_disk = {name: x for name, x in self.at(epoch).items() if _is_crops(x)}
    on_disk = {
      name: (x.utterances, x.crop_frames, np.asarray(x.start))
      for name, x in on_disk.items()
    }
    read = functools.partial(_read_call, calls, in_memory, on_disk)
    dataset = grain.MapDataset.range(len(calls)).map(read)
    options = grain.ReadOptions(self.ahead, self.ahead)
    iterator = dataset.to_iter_dataset(options)
    if self.workers:
      iterator = iterator.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=self.workers)
      )
    with contextlib.closing(iter(iterator)) as made:
      for sides in made:  # Which are let go before the next are made.
        yield sides.pop('forget', None), sides.pop('retain', None), None


def _is_crops(x):
  return isinstance(x, CropsOnDisk)


def _read_call(calls, in_memory, on_disk, i):
  """Returns the stacked batches of call i by the name of their set."""
  sides = zip(('forget', 'retain'), calls[i], strict=True)

  def read(side: IndexBatches) -> Batch:
    rows = np.asarray(side.rows)
    batch = {name: x[rows] for name, x in in_memory.items()}
    for name, (utterances, crop_frames, start) in on_disk.items():
      crops = [  # Step by step: the records of one step are in memory.
        read_crops(utterances, crop_frames, step, start[step]) for step in rows
      ]
      batch[name] = np.stack(crops)
    return {**batch, 'id': rows, 'mask': np.asarray(side.mask)}

  return {name: read(side) for name, side in sides if side is not None}


def streams(num_bytes: int, where: Where = 'auto') -> bool:
  """Says whether features are to be streamed.

  Args:
    num_bytes: of all features.
    where: 'auto' streams what would take more than half of the memory that the
      device has left; 'device' and 'stream' decide.

  Raises:
    ValueError: if `where` is another word.
  """
  if where not in ('auto', 'device', 'stream'):
    raise ValueError(f'where must be auto, device or stream, got {where!r}.')
  if where == 'auto':
    return num_bytes > available_bytes() / 2
  return where == 'stream'


def available_bytes() -> int:
  """Returns the memory that the first device has left."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'bytes_limit' in stats:
    return stats['bytes_limit'] - stats.get('bytes_in_use', 0)
  # The device is the host itself.
  with contextlib.suppress(OSError):
    for line in pathlib.Path('/proc/meminfo').read_text().splitlines():
      if line.startswith('MemAvailable:'):
        return int(line.split()[1]) * 1024
  return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
