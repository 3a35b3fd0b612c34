"""Works through a batch in pieces, so that memory grows with the piece."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from unlearn_jax.types import Batch


def pieces(batch: Batch, microbatch: int | None) -> tuple[Batch, int]:
  """Cuts a batch into pieces of one size; padding fills the last.

  Args:
    batch: arrays [batch, ...] and a float `mask` [batch].
    microbatch: examples a piece, at least 1; None is all in one.

  Returns:
    arrays [pieces, microbatch, ...], and the size of the batch.

  Raises:
    ValueError: if `microbatch` is below 1.
  """
  batch = {name: jnp.asarray(x) for name, x in batch.items()}
  size = batch['mask'].shape[0]
  if not size:  # One row of padding, so that there is a piece.
    empty = {n: jnp.zeros((1, *x.shape[1:]), x.dtype) for n, x in batch.items()}
    return {name: x[None] for name, x in empty.items()}, 0
  if microbatch is not None and microbatch < 1:
    raise ValueError(f'microbatch must be >= 1, got {microbatch}.')
  width = size if microbatch is None else min(microbatch, size)
  count = -(-size // width)

  def cut(x):
    # Copies of the last row, so that padding is as tame as the data.
    padding = jnp.repeat(x[-1:], count * width - size, axis=0)
    return jnp.concatenate([x, padding]).reshape(count, width, *x.shape[1:])

  cut_batch = {name: cut(x) for name, x in batch.items() if name != 'mask'}
  mask = jnp.pad(batch['mask'], (0, count * width - size))
  return {**cut_batch, 'mask': mask.reshape(count, width)}, size


def fold_pieces(
  fun: Callable[[Batch], Any], batch: Batch, microbatch: int | None
) -> Any:
  """Sums `fun` (piece) -> tree over the pieces of a batch."""
  cut, _ = pieces(batch, microbatch)
  if cut['mask'].shape[0] == 1:
    return fun(jax.tree.map(lambda x: x[0], cut))
  shapes = jax.eval_shape(fun, jax.tree.map(lambda x: x[0], cut))
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  def body(total, piece):
    return jax.tree.map(jnp.add, total, fun(piece)), None

  return jax.lax.scan(body, zeros, cut)[0]


def map_pieces(
  fun: Callable[[Batch], Any], batch: Batch, microbatch: int | None
) -> Any:
  """Joins `fun` (piece) -> tree of [microbatch, ...] along the first axis."""
  cut, size = pieces(batch, microbatch)
  if cut['mask'].shape[0] == 1:
    made = fun(jax.tree.map(lambda x: x[0], cut))
    return jax.tree.map(lambda x: x[:size], made)
  made = jax.lax.map(fun, cut)
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:size], made)
