r"""Products with curvature matrices, and linear systems solved by them alone.

No matrix is made. What is summed over the examples of a batch adds up over
batches, so a set of any size is folded. Rows behind a zero mask count for
nothing, whatever they hold; a batch without any other row is skipped.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unlearn_jax.datasets.batches import if_any_real
from unlearn_jax.types import Batch, LossFn, Params, PredictFn


def masked_sum(fun: LossFn) -> Callable[[Params, Batch], jax.Array]:
  """Returns (params, batch) to the sum of `fun` over the rows that count.

  Args:
    fun: maps (params, batch) to one value per example, [batch].
  """

  def total(params, batch):
    def sum_real(batch):
      mask = batch['mask']
      return jnp.where(mask > 0, fun(params, batch) * mask, 0.0).sum()

    return if_any_real(batch, sum_real)

  return total


def hvp(
  fun: Callable[..., jax.Array], params: Params, vector: Params, *args: Any
) -> Params:
  r"""Returns :math:`\nabla^2_\theta f(\theta) v`, forward over reverse.

  Args:
    fun: maps (params, *args) to a scalar; `masked_sum` makes one of a loss.
    params: any pytree of arrays.
    vector: v, shaped and typed like `params`.
    *args: what else `fun` takes, such as a batch.

  Returns:
    a tree like `params`.
  """
  gradient = jax.grad(fun)
  return jax.jvp(lambda p: gradient(p, *args), (params,), (vector,))[1]


def ggnvp(
  predict_fn: PredictFn, params: Params, batch: Batch, vector: Params
) -> Params:
  r"""Returns :math:`\sum_i J_i^T (diag(p_i) - p_i p_i^T) J_i v`.

  The Gauss-Newton product of the cross-entropy, which is its Fisher
  information too: positive semi-definite, and the Hessian where the logits are
  linear in the parameters.

  Args:
    predict_fn: maps (params, batch) to logits [batch, classes].
    params: any pytree of arrays.
    batch: arrays [batch, ...] and a float `mask` [batch].
    vector: v, shaped and typed like `params`.

  Returns:
    a tree like `params`, types included.
  """

  def product(batch):
    logits, push = jax.linearize(lambda p: predict_fn(p, batch), params)
    pull = jax.linear_transpose(push, params)
    p, tangent = jax.nn.softmax(_wide(logits)), _wide(push(vector))
    change = p * (tangent - (p * tangent).sum(-1, keepdims=True))
    return pull(_mask_rows(change, batch['mask']).astype(logits.dtype))[0]

  return if_any_real(batch, product)


def ggn_sample(
  predict_fn: PredictFn, params: Params, batch: Batch, signs: jax.Array
) -> Params:
  r"""Returns :math:`\sum_i J_i^T (diag(\sqrt{p_i}) - p_i \sqrt{p_i}^T) u_i`.

  The matrix behind J_i^T is a square root of the one in `ggnvp`. So over
  independent random signs u, the squared norm of the whole sum, folded over
  any number of batches, has the trace of the Gauss-Newton matrix as its mean:
  one backward pass estimates it.

  Args:
    predict_fn: maps (params, batch) to logits [batch, classes].
    params: any pytree of arrays.
    batch: arrays [batch, ...] and a float `mask` [batch].
    signs: u, [batch, classes], each 1 or -1.

  Returns:
    a tree like `params`, types included.
  """

  def product(batch):
    logits, pull = jax.vjp(lambda p: predict_fn(p, batch), params)
    p = jax.nn.softmax(_wide(logits))
    scaled = jnp.sqrt(p) * signs
    change = scaled - p * scaled.sum(-1, keepdims=True)
    return pull(_mask_rows(change, batch['mask']).astype(logits.dtype))[0]

  return if_any_real(batch, product)


class SolveInfo(NamedTuple):
  """How a solve went.

  Attributes:
    residual: norm of what is left of the right side over its norm, as the
      iteration carries it along; 0 for a right side of 0.
    iterations: products with the matrix.
    negative_curvature: whether it ended at a direction v with v^T A v <= 0.
  """

  residual: jax.Array
  iterations: jax.Array
  negative_curvature: jax.Array


def damped_solve(
  matvec: Callable[[Params], Params],
  b: Params,
  *,
  damping: jax.typing.ArrayLike,
  max_iterations: jax.typing.ArrayLike = 100,
  tolerance: jax.typing.ArrayLike = 1e-5,
) -> tuple[Params, SolveInfo]:
  r"""Solves :math:`(A + \mu I) x = b` by conjugate gradients from 0.

  It ends before a direction v in which :math:`v^T (A + \mu I) v` is not
  positive, with what it has reached so far: beyond, an indefinite matrix would
  lead it anywhere.

  Args:
    matvec: maps a tree like b to A times it; A is symmetric.
    b: any pytree of arrays; float32 or wider unless a rough answer will do.
    damping: mu.
    max_iterations: products with A at most.
    tolerance: the relative residual that ends it.

  Returns:
    x, shaped and typed like b, and how it went.

  References:
    Hestenes and Stiefel, 1952, https://doi.org/10.6028/jres.049.044.
  """
  b_square = tree_dot(b, b)
  bound = jnp.square(jnp.asarray(tolerance, b_square.dtype)) * b_square

  def go_on(state):
    _, _, _, square, count, negative = state
    return (square > bound) & (count < max_iterations) & ~negative

  def iterate(state):
    x, r, v, square, count, _ = state
    product = add_scaled(matvec(v), damping, v)
    curvature = tree_dot(v, product)
    negative = ~(curvature > 0)
    length = jnp.where(
      negative, 0.0, square / jnp.where(negative, 1, curvature)
    )
    x, r = add_scaled(x, length, v), add_scaled(r, -length, product)
    new_square = tree_dot(r, r)
    v = add_scaled(r, new_square / square, v)
    return x, r, v, new_square, count + 1, negative

  x = jax.tree.map(jnp.zeros_like, b)
  start = x, b, b, b_square, jnp.int32(0), jnp.asarray(False)
  x, _, _, square, count, negative = jax.lax.while_loop(go_on, iterate, start)
  nothing = b_square == 0
  residual = jnp.sqrt(square / jnp.where(nothing, 1, b_square))
  return x, SolveInfo(residual, count, negative)


def tree_dot(a: Params, b: Params) -> jax.Array:
  """Returns the inner product of two trees, in float32 at least."""
  products = jax.tree.map(lambda x, y: (_wide(x) * _wide(y)).sum(), a, b)
  return jnp.stack(jax.tree.leaves(products)).sum()


def add_scaled(a: Params, scale: jax.typing.ArrayLike, b: Params) -> Params:
  """Returns a + scale * b, typed like a."""
  return jax.tree.map(
    lambda x, y: x + jnp.asarray(scale, x.dtype) * y.astype(x.dtype), a, b
  )


def _wide(x):
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _mask_rows(x, mask):
  return jnp.where(mask[:, None] > 0, x * mask[:, None], 0.0)
