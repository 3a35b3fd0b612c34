r"""The gradient of every example, and functions of it.

`fun` maps (params, batch) to one value per example, [batch], and the value of
an example must not depend on the others: no batch statistics. Rows behind a
zero mask count for nothing, whatever they hold.

There are two ways, which agree to rounding. Where every weight belongs to a
layer of `models/`, one tapped backward pass (`per_example.taps`) gives all at
once; any other function goes through `vmap` of `grad`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from unlearn_jax.datasets.batches import fill_padding
from unlearn_jax.datasets.batches import if_any_real
from unlearn_jax.per_example import taps
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

  def grads(piece):
    found = _tapped(fun, params, piece, _GRADS)
    return _vmapped(fun, params, piece) if found is None else found

  return map_pieces(grads, batch, microbatch)


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
    if (found := _tapped(fun, params, piece, _SQUARED_NORMS)) is None:
      return squared_norms(_vmapped(fun, params, piece))
    return jnp.stack(jax.tree.leaves(found)).sum(0)

  return jnp.sqrt(map_pieces(norms, batch, microbatch))


def per_example_sum(
  fun: LossFn,
  params: Params,
  batch: Batch,
  transform: taps.Transform,
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
    found = _tapped(fun, params, piece, _sum_of(transform))
    if found is None:
      return _sum_leaves(transform, _vmapped(fun, params, piece))
    return found

  return fold_pieces(total, batch, microbatch)


def pull_sum(
  fun: Callable[[Params, Batch], jax.Array],
  params: Params,
  batch: Batch,
  transform: taps.Transform,
) -> tuple[jax.Array, Callable[[jax.Array], Params]]:
  r"""Returns the value of `fun` and a pull-back that keeps examples apart.

  Args:
    fun: maps (params, batch) to [batch, ...].
    params: any pytree of arrays.
    batch: arrays [batch, ...] and a float `mask` [batch].
    transform: elementwise with t(0) = 0.

  Returns:
    the value [batch, ...], and a function from its cotangent to the tree of
    :math:`\sum_i t(J_i^T c_i)` over the examples whose mask is not 0.
  """
  reduce = _sum_of(transform)
  if not taps.is_tappable(fun, params, batch, reduce):

    def pull_each(cotangent):
      grads = _vmapped(fun, params, batch, cotangent)
      return _sum_leaves(transform, grads)

    return fun(params, fill_padding(batch)), pull_each
  value, pull_taps = taps.vjp(fun, params, fill_padding(batch), reduce)

  def pull(cotangent):
    real = _rows(batch['mask'] > 0, cotangent)
    cotangent = jnp.where(real, cotangent, jnp.zeros((), cotangent.dtype))
    return if_any_real(batch, lambda _: pull_taps(cotangent))

  return value, pull


def squared_norms(gradients: Params) -> jax.Array:
  """Returns squared L2 norms [batch] of a tree with leaves [batch, ...]."""
  leaves = [wide(leaf) for leaf in jax.tree.leaves(gradients)]
  squares = [jnp.square(x.reshape(x.shape[0], -1)).sum(1) for x in leaves]
  return jnp.stack(squares).sum(0)


def wide(x: jax.Array) -> jax.Array:
  """Returns x in float32 at least."""
  return x.astype(_wide_type(x))


def _wide_type(x):
  return jnp.promote_types(x.dtype, jnp.float32)


def _sum_of(transform):
  """Returns the `Reduce` to the sum over examples of `transform`."""

  def like(weight, size):
    del size
    return jax.ShapeDtypeStruct(weight.shape, _wide_type(weight))

  def of(op, weight, x, cotangent):
    total = op.transformed_sum(
      lambda g: transform(wide(g)), weight, x, cotangent
    )
    return total.astype(_wide_type(weight))

  return taps.Reduce(like, of)


def _sum_leaves(transform, gradients):
  """Returns the same of a tree with leaves [batch, ...]."""
  return jax.tree.map(
    lambda g: taps.sum_examples(transform, wide(g)), gradients
  )


_GRADS = taps.Reduce(
  lambda w, size: jax.ShapeDtypeStruct((size, *w.shape), w.dtype),
  lambda op, weight, *rest: op.grads(weight, *rest).astype(weight.dtype),
)
_SQUARED_NORMS = taps.Reduce(
  lambda w, size: jax.ShapeDtypeStruct((size,), _wide_type(w)),
  lambda op, weight, x, cotangent: op.squared_norms(
    weight, wide(x), wide(cotangent)
  ),
)


def _tapped(fun, params, batch, reduce) -> Any:
  """Returns what a tapped pass gives, or None if `fun` is not fit for one."""
  if not taps.is_tappable(fun, params, batch, reduce):
    return None

  def run(batch):
    value, pull = taps.vjp(fun, params, batch, reduce)
    return pull((batch['mask'] > 0).astype(value.dtype))

  return if_any_real(batch, run)


def _vmapped(fun, params, batch, cotangent=None):
  """Returns all gradients by `vmap` of the pull-back of one example."""

  def gradient(example, cotangent):
    example = jax.tree.map(lambda x: x[None], example)
    value, pull = jax.vjp(lambda p: fun(p, example)[0], params)
    return pull(jnp.ones_like(value) if cotangent is None else cotangent)[0]

  gradients = jax.vmap(gradient)(batch, cotangent)
  return jax.tree.map(
    lambda g: jnp.where(_rows(batch['mask'] > 0, g), g, jnp.zeros((), g.dtype)),
    gradients,
  )


def _rows(values, like):
  """Shapes [batch] so that it broadcasts against [batch, ...]."""
  return values.reshape(-1, *[1] * (like.ndim - 1))
