"""For rules that make inputs, or bend them: moments per bin."""

from typing import Any

import jax
import jax.numpy as jnp

from unlearn_jax.datasets import batches
from unlearn_jax.training import loop
from unlearn_jax.types import Batch


def as_float(x: jax.Array) -> jax.Array:
  """Returns inputs in float32 at least: they may be stored in less."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def along_last_axis(values: jax.Array, ndim: int) -> jax.Array:
  """Returns values [bins] with `ndim` axes, to be broadcast along the last."""
  return values.reshape(*[1] * (ndim - values.ndim), *values.shape)


def input_shape(
  stacked: Any, examples: Batch | None, input_name: str
) -> tuple[int, ...]:
  """Returns the shape of one example's input; nothing is read.

  Args:
    stacked: batches as `training.loop.run` takes them.
    examples: what `IndexBatches` point into.
    input_name: of the input in a batch.
  """
  if isinstance(stacked, batches.IndexBatches):
    return (examples or {})[input_name].shape[1:]
  return stacked[input_name].shape[2:]


def moments(
  stacked: Any, examples: Batch | None, input_name: str
) -> tuple[jax.Array, jax.Array]:
  """Returns mean and standard deviation of the inputs, per bin.

  Args:
    stacked: batches as `training.loop.run` takes them, of inputs
      [..., bins].
    examples: what `IndexBatches` point into.
    input_name: of the input in a batch.

  Returns:
    two arrays [bins], over all examples that count and all axes but the last,
    in float32 at least; 0 where no example counts.
  """
  bins = input_shape(stacked, examples, input_name)[-1:]

  def mean_of(fun):
    def add(carry, batch):
      values = fun(as_float(jnp.asarray(batch[input_name])))
      mask = (batch['mask'] > 0).reshape(-1, *[1] * (values.ndim - 1))
      axes = tuple(range(values.ndim - len(bins)))
      total = jnp.where(mask, values, 0.0).sum(axes)
      count = mask.sum() * (values[:1].size // max(total.size, 1))
      return carry[0] + total, carry[1] + count

    carry = jnp.zeros(bins), jnp.zeros(())
    total, count = loop.fold(add, carry, stacked, examples)
    return total / jnp.maximum(count, 1.0)

  mean = mean_of(lambda x: x)
  variance = mean_of(lambda x: jnp.square(x - along_last_axis(mean, x.ndim)))
  return mean, jnp.sqrt(variance)
