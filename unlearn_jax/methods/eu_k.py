r"""EU-k, exact unlearning of the last k blocks: train these from scratch.

.. math::
  J(\theta_{last}) = E_r[l_i(\theta_{first}, \theta_{last})], \quad
  \theta_{first} = \theta_o, \quad \theta_{last,0} = init(key)

Data: retain. The last blocks start from a fresh model and are trained by the
recipe of the original one, for its full number of epochs; the first blocks,
which have seen the forget set, stay bit for bit. The backward pass ends where
the last blocks begin. With k the number of blocks it is retraining.

References:
  Goel et al., 2022, https://arxiv.org/abs/2201.06640.
"""

from collections.abc import Sequence

import optax

from unlearn_jax.methods.blocks import last_blocks
from unlearn_jax.methods.blocks import stop_elsewhere
from unlearn_jax.methods.blocks import train_only
from unlearn_jax.methods.retrain import start_fresh
from unlearn_jax.training.step import descend
from unlearn_jax.types import AugmentFn, InitParamsFn, LossFn, UnlearningMethod


def eu_k(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  init_fn: InitParamsFn,
  *,
  blocks: Sequence[str],
  k: int = 1,
  augment_fn: AugmentFn | None = None,
) -> UnlearningMethod:
  """EU-k as an `UnlearningMethod`; the forget batch is not read.

  The first step starts the last k blocks from those of `init_fn(key)`, with
  the key that `init` is given, as `retrain` starts all of them.

  Args:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    tx: the optimizer of the training recipe; it sees the last k blocks alone.
    init_fn: maps a key to fresh parameters.
    blocks: path prefixes of the parameters from input to output, the head
      included; parameters in none of them are never trained.
    k: how many of the last blocks start anew, from 1 to all.
    augment_fn: the augmentation of the training recipe.

  Raises:
    ValueError: if k is out of bounds.
  """
  select = last_blocks(blocks, k)
  training = descend(
    stop_elsewhere(loss_fn, select), train_only(tx, select), augment_fn
  )
  return start_fresh(training, init_fn, select)
