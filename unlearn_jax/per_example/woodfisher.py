r"""The inverse of a damped empirical Fisher matrix, from a few gradients.

With m gradients as the rows of G,

.. math::
  F = \mu I + \tfrac{1}{m} G^T G, \quad
  F^{-1} v = \tfrac{1}{\mu}\left(v - G^T (m \mu I + G G^T)^{-1} G v\right)

which is exact and needs a matrix [m, m] only. It is what the one-by-one
recursion of WoodFisher arrives at if every o_i is built through all earlier
pairs.

References:
  Singh and Alistarh, 2020, https://arxiv.org/abs/2004.14340.
"""

import jax
import jax.numpy as jnp

from unlearn_jax.types import Params


def woodfisher_solve(
  gradients: Params,
  vector: Params,
  *,
  count: jax.typing.ArrayLike,
  damping: jax.typing.ArrayLike,
) -> Params:
  """Returns F^{-1} v.

  Args:
    gradients: G, a tree with leaves [rows, ...]; rows of 0 change nothing.
    vector: v, a tree with leaves [...].
    count: m, the rows that count; without any, F is mu I.
    damping: mu > 0.
  """
  flat = [_wide(g).reshape(g.shape[0], -1) for g in jax.tree.leaves(gradients)]
  leaves, tree = jax.tree.flatten(vector)
  gram = sum(g @ g.T for g in flat)
  along = sum(g @ _wide(v).ravel() for g, v in zip(flat, leaves, strict=True))
  # Through eigenvalues, so that rounding cannot make the matrix indefinite.
  values, basis = jnp.linalg.eigh(gram)
  ridge = jnp.maximum(count, 1) * damping
  scaled = (basis.T @ along) / (ridge + jnp.maximum(values, 0.0))
  weights = basis @ scaled
  solved = [
    ((_wide(v) - (weights @ g).reshape(v.shape)) / damping).astype(v.dtype)
    for g, v in zip(flat, leaves, strict=True)
  ]
  return jax.tree.unflatten(tree, solved)


def _wide(x):
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
