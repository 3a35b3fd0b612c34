"""Sums over whole sets: gradients, and products with their curvature.

Sets are stacked batches as `training.loop.fold` takes them.
"""

from collections.abc import Callable
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.datasets import batches
from unlearn_jax.per_example import hessian
from unlearn_jax.training import loop
from unlearn_jax.types import Batch, LossFn, Params, PredictFn

Curvature = Literal['gauss_newton', 'hessian']

_PROBES = 4


def count(stacked: Any) -> jax.Array:
  """Returns the sum of the mask of a set."""
  return _mask(stacked).sum()


def draw(stacked: Any, samples: int | None, key: jax.Array) -> Any:
  """Draws examples; which ones depends on the key and their ids alone.

  Args:
    stacked: the set; a dict holds `id`.
    samples: how many, at least 1; None, or as many as there are, is all.
    key: of the draw.

  Returns:
    stacked batches of the same kind and size, as few as hold them.
  """
  steps, size = _mask(stacked).shape
  if samples is None or samples >= steps * size:
    return stacked
  flat = flatten(stacked)
  indexed = isinstance(flat, batches.IndexBatches)
  ids = flat.rows if indexed else flat['id']
  bits = jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(key, i)))(ids)
  steps = -(-samples // size)
  order = jnp.lexsort((bits, _mask(flat) <= 0))[: steps * size]
  taken = jax.tree.map(lambda x: x[order], flat)
  mask = jnp.where(jnp.arange(steps * size) < samples, _mask(taken), 0.0)
  taken = taken._replace(mask=mask) if indexed else {**taken, 'mask': mask}
  return jax.tree.map(lambda x: x.reshape(steps, size, *x.shape[1:]), taken)


def flatten(stacked: Any) -> Any:
  """Returns a set as one batch."""
  return jax.tree.map(
    lambda x: jnp.asarray(x).reshape(-1, *x.shape[2:]), stacked
  )


def gradient_sum(
  params: Params,
  stacked: Any,
  examples: Batch | None,
  *,
  loss_fn: LossFn,
  weight_decay: jax.typing.ArrayLike = 0.0,
) -> Params:
  r"""Returns :math:`\sum_i l_i' + n w \theta` over the n examples of a set.

  Args:
    params: any pytree of arrays, in float32 at least.
    stacked: the set.
    examples: what `IndexBatches` point into.
    loss_fn: maps (params, batch) to one loss per example, [batch].
    weight_decay: w.
  """
  gradient = jax.grad(hessian.masked_sum(loss_fn))
  total = _fold_sum(lambda b: gradient(params, b), params, stacked, examples)
  return hessian.add_scaled(total, weight_decay * count(stacked), params)


def curvature_sum(
  params: Params,
  stacked: Any,
  examples: Batch | None,
  key: jax.Array,
  *,
  loss_fn: LossFn,
  predict_fn: PredictFn,
  curvature: Curvature,
) -> tuple[Callable[[Params], Params], jax.Array]:
  """Returns the product with the summed curvature of a set, and its mean.

  The mean of the diagonal, without its sign, is estimated by four probes of
  random signs: for the Gauss-Newton matrix by backward passes, with a sign for
  every logit of every example, which depends on the key and the example's id
  alone; for the Hessian by products, with a sign for every parameter.

  Args:
    params: any pytree of arrays, in float32 at least.
    stacked: the set; for the Gauss-Newton matrix a dict holds `id`.
    examples: what `IndexBatches` point into.
    key: of the signs.
    loss_fn: maps (params, batch) to one loss per example, [batch].
    predict_fn: maps (params, batch) to logits [batch, classes].
    curvature: 'gauss_newton', of the cross-entropy, or 'hessian', of `loss_fn`.
  """
  loss_sum = hessian.masked_sum(loss_fn)

  def product(vector):
    def of_batch(batch):
      if curvature == 'hessian':
        return hessian.hvp(loss_sum, params, vector, batch)
      return hessian.ggnvp(predict_fn, params, batch, vector)

    return _fold_sum(of_batch, params, stacked, examples)

  def signed_sums(batch):
    classes = jax.eval_shape(predict_fn, params, batch).shape[-1]

    def signs(i):
      i_key = jax.random.fold_in(key, i)
      return jax.random.rademacher(i_key, (_PROBES, classes), jnp.float32)

    drawn = jax.vmap(signs, out_axes=1)(batch['id'])
    sample = functools.partial(hessian.ggn_sample, predict_fn, params, batch)
    return jax.lax.map(sample, drawn)  # On a CPU faster than vmap.

  def probe(probe_key):
    signs = optax.tree.random_like(probe_key, params, jax.random.rademacher)
    return hessian.tree_dot(signs, product(signs))

  if curvature == 'hessian':
    trace = jnp.abs(jax.lax.map(probe, jax.random.split(key, _PROBES)).mean())
  else:
    like = jax.tree.map(lambda x: jnp.stack([x] * _PROBES), params)
    total = _fold_sum(signed_sums, like, stacked, examples)
    trace = hessian.tree_dot(total, total) / _PROBES
  return product, trace / optax.tree.size(params)


def widen(params: Params) -> Params:
  """Returns parameters in float32 at least."""
  return jax.tree.map(
    lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), params
  )


def ratio(
  a: jax.typing.ArrayLike, b: jax.Array, otherwise: float = 0.0
) -> jax.Array:
  """Returns a / b where b is above 0."""
  return jnp.where(b > 0, a / jnp.where(b > 0, b, 1.0), otherwise)


def _mask(stacked):
  indexed = isinstance(stacked, batches.IndexBatches)
  return jnp.asarray(stacked.mask if indexed else stacked['mask'])


def _fold_sum(fun, like, stacked, examples):
  """Sums `fun` (batch) -> a tree like `like` over a set."""

  def add(total, batch):
    return jax.tree.map(jnp.add, total, fun(batch))

  return loop.fold(add, jax.tree.map(jnp.zeros_like, like), stacked, examples)
