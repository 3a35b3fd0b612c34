r"""Subspace projection: erase what tells the forgotten set from an embedding.

.. math::
  \delta = \Sigma_{hz}, \quad a = (\Sigma_{hh} + \rho \bar\sigma^2 I)^{-1}
  \delta, \quad h \leftarrow h - s \frac{a^T (h - \mu)}{a^T \delta} \delta

with z = 1 on the forget set and 0 elsewhere, and means and covariances over
both sets. Data: both; no labels, no steps, one pass. For strength s = 1 and
ridge rho = 0 this is least-squares concept erasure: afterwards h and z are
uncorrelated, so that no linear probe can do better than a constant, and of all
affine maps of which that is true it moves h the least. The direction a is
Fisher's discriminant, the only generalised eigenvector there is for two groups.

The map is folded into the linear layer that makes the embedding, or, where the
embedding is no output of a linear layer, into the head: then the answers lose
the speaker and the features in front of the head do not.

References:
  Belrose et al., 2023, "LEACE", https://arxiv.org/abs/2306.03819, theorem 4.3.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unlearn_jax.methods import base
from unlearn_jax.training import loop
from unlearn_jax.types import (
  Batch,
  EmbedFn,
  MapEmbeddingFn,
  Params,
  UnlearningMethod,
)

_TINY = 1e-12


class Moments(NamedTuple):
  """Sums over a set: number of rows [], h [d] and h h^T [d, d]."""

  size: jax.Array
  total: jax.Array
  outer: jax.Array


def moments(
  embed_fn: EmbedFn,
  params: Params,
  stacked: Any,
  examples: Batch | None = None,
) -> Moments:
  """Adds up the moments of the embeddings of a whole set.

  Args:
    embed_fn: maps (params, batch) to embeddings [batch, d].
    params: any pytree of arrays.
    stacked: batches of the set, as `training.loop.fold` takes them.
    examples: arrays that `IndexBatches` point into.
  """

  def of(batch):
    keep = batch['mask'] > 0
    h = jnp.where(keep[:, None], embed_fn(params, batch), 0.0)
    h = h.astype(jnp.promote_types(h.dtype, jnp.float32))
    outer = jnp.matmul(h.T, h, precision=jax.lax.Precision.HIGHEST)
    return Moments(keep.sum().astype(h.dtype), h.sum(0), outer)

  return loop.fold_sum(of, stacked, examples)


def erasing_map(
  forget: Moments,
  retain: Moments,
  *,
  strength: jax.typing.ArrayLike = 1.0,
  ridge: jax.typing.ArrayLike = 0.0,
) -> tuple[jax.Array, jax.Array]:
  """Returns the affine map h -> h @ matrix + offset.

  Args:
    forget: moments of the embeddings of the forget set.
    retain: likewise.
    strength: s; 0 is the identity.
    ridge: rho, at least 0, in units of the mean variance.

  Returns:
    the matrix [d, d] and the offset [d]; the identity where the two sets have
    the same mean.
  """
  both = jax.tree.map(jnp.add, forget, retain)
  count = jnp.maximum(both.size, 1.0)
  mean = both.total / count
  covariance = both.outer / count - jnp.outer(mean, mean)
  share = forget.size / count
  # Cov(h, z) = E[h z] - E[h] E[z].
  delta = forget.total / count - share * mean
  width = mean.shape[0]
  spread = jnp.trace(covariance) / width
  eye = jnp.eye(width, dtype=mean.dtype)
  # The pseudo-inverse: a direction in which nothing varies is left alone.
  values, vectors = jnp.linalg.eigh(covariance + ridge * spread * eye)
  floor = width * jnp.finfo(mean.dtype).eps * jnp.maximum(values[-1], _TINY)
  inverse = jnp.where(values > floor, 1.0 / jnp.maximum(values, floor), 0.0)
  direction = vectors @ (inverse * (vectors.T @ delta))
  weight = direction @ delta
  weight = jnp.where(weight > _TINY, strength / jnp.maximum(weight, _TINY), 0.0)
  matrix = eye - weight * jnp.outer(direction, delta)
  return matrix, mean - mean @ matrix


def subspace_projection(
  embed_fn: EmbedFn | None,
  map_embedding_fn: MapEmbeddingFn | None,
  *,
  strength: float = 1.0,
  ridge: float = 1e-3,
) -> UnlearningMethod:
  """Subspace projection as an `UnlearningMethod`; it takes no steps.

  Args:
    embed_fn: maps (params, batch) to embeddings [batch, d].
    map_embedding_fn: maps (params, matrix, offset) to parameters of the network
      with the embedding h @ matrix + offset.
    strength: s, in [0, 2]; above 1 the forgotten set goes past the others.
    ridge: rho, at least 0, in units of the mean variance of the embedding.

  Raises:
    ValueError: if there is no embedding or an option is outside its bounds.
  """
  embed_fn = base.need_embedding(embed_fn)
  if map_embedding_fn is None:
    raise ValueError('map_embedding_fn must be given, got None.')
  base.check_range('strength', strength, 0.0, 2.0)
  base.check_range('ridge', ridge, 0.0)

  def edit_fn(params, forget, retain, examples, key, hyper):
    del key
    sums = [moments(embed_fn, params, s, examples) for s in (forget, retain)]
    matrix, offset = erasing_map(*sums, **hyper)
    return map_embedding_fn(params, matrix, offset), {}

  return base.from_edit(
    edit_fn,
    hyper={'strength': strength, 'ridge': ridge},
    needs=('forget', 'retain'),
  )
