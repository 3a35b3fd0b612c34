"""Batches as index arrays into examples that live on the device.

A pass, an epoch or a whole run is an `IndexBatches`: which row stands where.
The examples themselves are gathered step by step inside the compiled loop, so
a run of many epochs costs memory only for its indices, and models of a
population share one copy of the data.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.types import Batch


class IndexBatches(NamedTuple):
  """Rows of each step; every batch has the same shape.

  Attributes:
    rows: [steps, batch] int32, rows of the examples; 0 on padding.
    mask: [steps, batch] float32, 0 on padding.
  """

  rows: jax.Array | np.ndarray
  mask: jax.Array | np.ndarray


# Forget and retain batches of the same steps; None for what has no such set.
Call = tuple[IndexBatches | None, IndexBatches | None]


def one_pass(
  rows: np.ndarray, batch_size: int, rng: np.random.Generator | None = None
) -> IndexBatches:
  """Visits every row once, in the order that `rng` shuffles them into.

  Args:
    rows: [n] int; may be empty, which gives no steps.
    batch_size: at least 1; the last batch is padded.
    rng: None keeps the order.
  """
  rows = np.asarray(rows, np.int32)
  if rng is not None:
    rows = rng.permutation(rows)
  steps = -(-len(rows) // batch_size)
  index = np.zeros(steps * batch_size, np.int32)
  index[: len(rows)] = rows
  mask = np.zeros(steps * batch_size, np.float32)
  mask[: len(rows)] = 1.0
  shape = (steps, batch_size)
  return IndexBatches(index.reshape(shape), mask.reshape(shape))


def repeat(
  rows: np.ndarray, batch_size: int, steps: int, rng: np.random.Generator
) -> IndexBatches:
  """Fills `steps` full batches with pass after pass over `rows`.

  Every batch is full unless there are fewer rows than `batch_size`: then each
  batch is one padded pass, and padding alone if there are no rows.
  """
  if not len(rows):
    return empty(steps, batch_size)
  if len(rows) <= batch_size or steps == 0:
    passes = [one_pass(rows, batch_size, rng) for _ in range(steps)]
    return concatenate(passes, batch_size)
  count = -(-steps * batch_size // len(rows))
  order = np.concatenate([rng.permutation(rows) for _ in range(count)])
  return one_pass(order[: steps * batch_size], batch_size)


def empty(steps: int, batch_size: int) -> IndexBatches:
  """Batches of padding alone."""
  shape = (steps, batch_size)
  return IndexBatches(np.zeros(shape, np.int32), np.zeros(shape, np.float32))


def concatenate(parts: list[IndexBatches], batch_size: int) -> IndexBatches:
  """Puts runs of batches of the same size one after another."""
  parts = parts or [empty(0, batch_size)]
  return IndexBatches(*(np.concatenate(arrays) for arrays in zip(*parts)))  # noqa: B905


def pad_steps(batches: IndexBatches, steps: int) -> IndexBatches:
  """Appends steps of padding, which the loop skips, up to `steps`.

  Raises:
    ValueError: if there are more than `steps` already.
  """
  have = len(batches.rows)
  if have > steps:
    raise ValueError(f'steps must be at least {have}, got {steps}.')

  def pad(x):
    return np.pad(x, [(0, steps - have), *[(0, 0)] * (x.ndim - 1)])

  return IndexBatches(*map(pad, batches))


def take(examples: Batch, batch: IndexBatches) -> Batch:
  """Gathers one step's rows of `examples` and adds `mask` and `id`.

  Args:
    examples: arrays [examples, ...].
    batch: rows and mask [batch] of one step.

  Returns:
    arrays [batch, ...], `mask` [batch], and `id` [batch], the rows.
  """
  gathered = {name: x[batch.rows] for name, x in examples.items()}
  mask = jnp.asarray(batch.mask)
  return {**gathered, 'id': jnp.asarray(batch.rows), 'mask': mask}


def fill_padding(batch: Batch) -> Batch:
  """Puts a real row in the place of every row that does not count.

  A masked mean keeps a nan behind a zero mask out of its value, but not out of
  its gradient, where 0 * nan is nan. A batch of padding alone becomes zeros.

  Args:
    batch: arrays [batch, ...] and a float `mask` [batch], which is kept.
  """
  counts = batch['mask'] > 0
  first = jnp.argmax(counts)

  def fill(x):
    x = jnp.asarray(x)
    row = jnp.where(counts.any(), x[first], jnp.zeros((), x.dtype))
    return jnp.where(counts.reshape(-1, *[1] * (x.ndim - 1)), x, row[None])

  rest = {name: fill(x) for name, x in batch.items() if name != 'mask'}
  return {**rest, 'mask': batch['mask']}


def if_any_real(batch: Batch, make: Callable[[Batch], Any]) -> Any:
  """Returns `make` of the batch, or zeros if all of its rows are padding.

  Args:
    batch: arrays [batch, ...] and a float `mask` [batch].
    make: maps the batch, its padding filled by `fill_padding`, to a tree of
      arrays.
  """
  filled = fill_padding(batch)
  shapes = jax.eval_shape(make, filled)
  return jax.lax.cond(
    (jnp.asarray(filled['mask']) > 0).any(),
    lambda: make(filled),
    lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes),
  )
