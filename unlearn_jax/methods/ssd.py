r"""SSD: dampen the weights that matter more to the forget set than to all data.

.. math::
  I_S = E_S[g_i^2], \quad
  \theta_j \leftarrow \theta_j \min((\lambda I_{D,j} / I_{f,j})^e, 1)
  \text{ where } I_{f,j} > \alpha I_{D,j}

Data: both, since D is the forget and the retain set together; forget alone
where the importance of D is given. There are no steps: `training.loop.prepare`
makes the edit. Each gradient is squared by itself, at the original model, so
an importance does not depend on how the examples are cut into batches. The
square of a batch-mean gradient does.

References:
  Foster, Schoepf and Brintrup, 2024, https://arxiv.org/abs/2308.07707.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp

from unlearn_jax.methods import base
from unlearn_jax.per_example import fisher
from unlearn_jax.training import loop
from unlearn_jax.types import Batch, LossFn, Metrics, Params, UnlearningMethod

SumFn = Callable[[Params, Batch], Params]  # Sums over the rows of a batch.
Sums = tuple[Params, jax.Array]  # Sums over a set, and its number of rows.


def importance_sums(
  sum_fn: SumFn, params: Params, stacked: Any, examples: Batch | None = None
) -> Sums:
  """Adds up an importance over a whole set.

  Args:
    sum_fn: maps (params, batch) to sums over the unmasked rows, a tree like
      `params` in float32 at least; `functools.partial(fisher.squared_sum,
      loss_fn)` for SSD.
    params: where gradients are taken; any pytree of arrays.
    stacked: batches of the set, as `training.loop.fold` takes them.
    examples: arrays that `IndexBatches` point into.

  Returns:
    a tree like `params`, and the number of rows that count, int32.
  """

  def add(carry, batch):
    total, count = carry
    total = jax.tree.map(jnp.add, total, sum_fn(params, batch))
    return total, count + (batch['mask'] > 0).sum(dtype=jnp.int32)

  def zeros(x):
    return jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))

  initial = jax.tree.map(zeros, params), jnp.zeros((), jnp.int32)
  return loop.fold(add, initial, stacked, examples)


def importance_mean(*parts: Sums) -> Params:
  """Returns the mean over the union of disjoint sets; 0 of no rows."""
  totals, counts = zip(*parts, strict=True)
  count = jnp.maximum(sum(counts), 1)
  return jax.tree.map(lambda *x: sum(x) / count, *totals)


def dampen(
  params: Params,
  forget_importance: Params,
  importance: Params,
  *,
  threshold: jax.Array | float,
  dampening: jax.Array | float,
  exponent: jax.Array | float,
) -> tuple[Params, Metrics]:
  """Returns dampened parameters, and the share of them that shrank.

  Args:
    params: any pytree of arrays.
    forget_importance: I_f, a tree like `params`, at least 0. Where it or I_D is
      not finite, so is the result.
    importance: I_D, likewise.
    threshold: alpha, at least 0; infinity is the identity.
    dampening: lambda, at least 0; infinity is the identity.
    exponent: e, at least 0; 0 is the identity.
  """

  def factor(of_forget, of_all):
    positive = of_forget > 0
    # As a ratio, an importance too small to multiply by alpha still counts.
    ratio = of_all / jnp.where(positive, of_forget, 1.0)
    chosen = positive & (threshold * ratio < 1)
    scaled = jnp.where(jnp.isinf(dampening), 1.0, dampening * ratio)
    shrunk = jnp.minimum(scaled**exponent, 1.0)
    known = jnp.isfinite(of_forget) & jnp.isfinite(of_all)
    return jnp.where(known, jnp.where(chosen, shrunk, 1.0), jnp.nan)

  factors = jax.tree.map(factor, forget_importance, importance)
  edited = jax.tree.map(lambda x, f: (x * f).astype(x.dtype), params, factors)
  leaves = jax.tree.leaves(factors)
  shrank = sum((f < 1).sum() for f in leaves) / sum(f.size for f in leaves)
  return edited, {'dampened_share': shrank}


def selective_dampening(
  sum_fn: SumFn,
  *,
  threshold: float,
  dampening: float,
  exponent: float,
  importance: Params | None,
) -> UnlearningMethod:
  """Lifts `dampen` to a method for the importance that `sum_fn` adds up.

  Arguments and errors are those of `ssd`.
  """
  hyper = {
    'threshold': threshold,
    'dampening': dampening,
    'exponent': exponent,
  }
  for name, value in hyper.items():
    base.check_range(name, value, 0.0)

  def edit_fn(params, forget, retain, examples, key, hyper):
    del key
    forget_sums = importance_sums(sum_fn, params, forget, examples)
    of_all = importance
    if of_all is None:
      if retain is None:
        raise ValueError('retain must be given without an importance.')
      retain_sums = importance_sums(sum_fn, params, retain, examples)
      of_all = importance_mean(forget_sums, retain_sums)
    return dampen(params, importance_mean(forget_sums), of_all, **hyper)

  return base.from_edit(
    edit_fn,
    hyper=hyper,
    report=('dampened_share',),
    needs=('forget',),
  )


def ssd(
  loss_fn: LossFn,
  *,
  threshold: float = 10.0,
  dampening: float = 1.0,
  exponent: float = 1.0,
  importance: Params | None = None,
  microbatch: int | None = None,
) -> UnlearningMethod:
  """SSD as an `UnlearningMethod`; its state reports `dampened_share`.

  Args:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    threshold: alpha, at least 0; infinity is the identity.
    dampening: lambda, at least 0; infinity is the identity.
    exponent: e, at least 0; 0 is the identity.
    importance: the stored I_D over all training data at the original model, a
      tree like the parameters: `importance_mean(importance_sums(...))`. The
      retain set is then not read and may be None.
    microbatch: gradients at a time, at least 1; None is a whole batch.

  Raises:
    ValueError: if a scalar is out of bounds; when run, if there is neither an
      importance nor a retain set.
  """
  if microbatch is not None:
    base.check_range('microbatch', microbatch, 1)
  return selective_dampening(
    functools.partial(fisher.squared_sum, loss_fn, microbatch=microbatch),
    threshold=threshold,
    dampening=dampening,
    exponent=exponent,
    importance=importance,
  )
