r"""CF-k, catastrophic forgetting of the last k blocks: fine-tune these alone.

.. math::
  J(\theta_{last}) = E_r[l_i(\theta_{first}, \theta_{last})], \quad
  \theta_0 = \theta_o

Data: retain. The first blocks keep theta_o bit for bit: neither weight decay
nor momentum moves them, nor any statistic that is a parameter, and the norm
that a clipping optimizer sees is that of the last blocks alone. The backward
pass ends where they begin. With k the number of blocks it is fine-tuning.

References:
  Goel et al., 2022, https://arxiv.org/abs/2201.06640.
"""

from collections.abc import Sequence

import optax

from unlearn_jax.methods import base
from unlearn_jax.methods.blocks import last_blocks
from unlearn_jax.methods.blocks import SelectFn
from unlearn_jax.methods.blocks import stop_elsewhere
from unlearn_jax.methods.blocks import train_only
from unlearn_jax.methods.fine_tune import fine_tune_direction
from unlearn_jax.types import Batch, LossFn, Metrics, Params, UnlearningMethod


def cf_k_direction(
  params: Params, retain: Batch, *, loss_fn: LossFn, select: SelectFn
) -> tuple[Params, Metrics]:
  """Returns the gradient of the mean retain loss, 0 outside of the selection.

  Args:
    params: any pytree of arrays.
    retain: batch of the retain set; `mask` [batch] is 0 on padding.
    loss_fn: maps (params, batch) to one loss per example, [batch].
    select: says of a path, such as 'Dense_0/kernel', whether it is trained.
  """
  restricted = stop_elsewhere(loss_fn, select)
  return fine_tune_direction(params, retain, loss_fn=restricted)


def cf_k(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  *,
  blocks: Sequence[str],
  k: int = 1,
) -> UnlearningMethod:
  """CF-k as an `UnlearningMethod`; the forget batch is not read.

  Args:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    tx: any optax transform; it sees the last k blocks alone.
    blocks: path prefixes of the parameters from input to output, the head
      included; parameters in none of them are never trained.
    k: how many of the last blocks to train, from 1 to all.

  Raises:
    ValueError: if k is out of bounds.
  """
  select = last_blocks(blocks, k)

  def direction_fn(params, forget, retain, key, frozen, hyper):
    del forget, key, frozen, hyper
    return cf_k_direction(params, retain, loss_fn=loss_fn, select=select)

  return base.from_direction(
    direction_fn,
    train_only(tx, select),
    needs=('retain',),
  )
