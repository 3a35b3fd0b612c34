"""The sum of gradients that are clipped one by one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from unlearn_jax.datasets.batches import if_any_real
from unlearn_jax.per_example import gradients
from unlearn_jax.per_example.microbatch import fold_pieces
from unlearn_jax.types import Batch, LossFn, Params


def clipped_sum(
  fun: LossFn,
  max_norm: float | jax.Array,
  *,
  microbatch: int | None = None,
) -> Callable[[Params, Batch], Params]:
  r"""Returns (params, batch) to :math:`\sum_i g_i \min(1, c / ||g_i||_2)`.

  Shaped like `jax.grad`. The norm is over the whole tree. One example more or
  less changes the sum by at most c = `max_norm` in L2 norm.

  | case | what an example adds |
  |---|---|
  | norm at most c | its gradient, unchanged |
  | norm above c | its gradient, scaled to norm c |
  | gradient 0 | 0 |
  | c = 0 | 0 |
  | c infinite | its gradient, unchanged |
  | c negative or not a number | a ValueError, or nothing but nan if traced |
  | mask 0 | 0, whatever the row holds |
  | gradient not finite | nan: never silently 0 |

  Args:
    fun: maps (params, batch) to one value per example, [batch].
    max_norm: c, a scalar of at least 0; may be traced.
    microbatch: examples at a time, at least 1; None is the whole batch.

  Raises:
    ValueError: if `max_norm` is a number below 0 or nan.

  Source: Abadi et al., 2016, https://arxiv.org/abs/1607.00133, algorithm 1.
  """
  if not isinstance(max_norm, jax.core.Tracer) and not float(max_norm) >= 0:
    raise ValueError(f'max_norm must be >= 0, got {max_norm}.')
  bound = jnp.where(jnp.asarray(max_norm) >= 0, max_norm, jnp.nan)

  def clipped(params, batch):
    def total(piece):
      norms = gradients.per_example_norms(fun, params, piece)
      # Where the norm is 0 any factor will do, but c / 0 may be no number.
      factor = jnp.minimum(1.0, bound / jnp.where(norms > 0, norms, 1.0))
      factor = jnp.where(jnp.isfinite(norms), factor, jnp.nan)
      factor = jnp.where(piece['mask'] > 0, factor, 0.0)

      def scaled_sum(piece):
        # The sum of scaled gradients is one more pull-back, of the factors.
        value, pull = jax.vjp(lambda p: fun(p, piece), params)
        return pull(factor.astype(value.dtype))[0]

      total = if_any_real(piece, scaled_sum)
      return jax.tree.map(gradients.wide, total)

    total = fold_pieces(total, batch, microbatch)
    return jax.tree.map(lambda x, p: x.astype(p.dtype), total, params)

  return clipped
