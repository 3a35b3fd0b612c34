r"""The gradient of every example, and functions of it.

`fun` maps (params, batch) to one value per example, [batch], and the value of
an example must not depend on the others: no batch statistics. Rows behind a
zero mask count for nothing, whatever they hold.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from unlearn_jax.per_example.microbatch import fold_pieces
from unlearn_jax.per_example.microbatch import map_pieces
from unlearn_jax.types import Batch, LossFn, Params


def per_example_grads(
  fun: LossFn, params: Params, batch: Batch, *, microbatch: int | None = None
) -> Params:
  r"""Returns :math:`g_i = \nabla_\theta f_i(\theta)` of every example.

  Args:
    fun: maps (params, batch) to one value per example, [batch].
    params: any pytree of arrays.
    batch: arrays [batch, ...] and a float `mask` [batch].
    microbatch: examples at a time, at least 1; memory beside the result grows
      with it. None is the whole batch.

  Returns:
    a tree like `params` with leaves [batch, ...]; 0 where the mask is 0.
  """
  return map_pieces(lambda piece: _grads(fun, params, piece), batch, microbatch)


def per_example_norms(
  fun: LossFn, params: Params, batch: Batch, *, microbatch: int | None = None
) -> jax.Array:
  """Returns the L2 norm of every example's gradient over the whole tree.

  Args and bounds as in `per_example_grads`. The square root is taken last, in
  float32 at least.

  Returns:
    [batch], at least 0; 0 where the mask is 0.
  """

  def norms(piece):
    return jnp.sqrt(squared_norms(_grads(fun, params, piece)))

  return map_pieces(norms, batch, microbatch)


def per_example_sum(
  fun: LossFn,
  params: Params,
  batch: Batch,
  transform: Callable[[jax.Array], jax.Array],
  *,
  microbatch: int | None = None,
) -> Params:
  r"""Returns :math:`\sum_i t(g_i)` with `transform` t elementwise.

  Args:
    fun: maps (params, batch) to one value per example, [batch].
    params: any pytree of arrays.
    batch: arrays [batch, ...] and a float `mask` [batch].
    transform: elementwise with t(0) = 0, such as `jnp.square` or `jnp.abs`.
    microbatch: as in `per_example_grads`.

  Returns:
    a tree like `params`; sums are in float32 at least.
  """

  def total(piece):
    return jax.tree.map(
      lambda g: transform(_wide(g)).sum(0), _grads(fun, params, piece)
    )

  return fold_pieces(total, batch, microbatch)


def squared_norms(gradients: Params) -> jax.Array:
  """Returns squared L2 norms [batch] of a tree with leaves [batch, ...]."""
  leaves = [_wide(leaf) for leaf in jax.tree.leaves(gradients)]
  return sum(jnp.square(x.reshape(x.shape[0], -1)).sum(1) for x in leaves)


def _wide(x):
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _grads(fun, params, batch):
  def value(params, example):
    return fun(params, jax.tree.map(lambda x: x[None], example))[0]

  gradients = jax.vmap(jax.grad(value), (None, 0))(params, batch)

  def clear(g):
    mask = batch['mask'].reshape(-1, *[1] * (g.ndim - 1))
    return jnp.where(mask > 0, g, jnp.zeros((), g.dtype))

  return jax.tree.map(clear, gradients)
