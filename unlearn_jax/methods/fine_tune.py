r"""Fine-tuning: go on training, on the retain set alone.

.. math:: J(\theta) = E_r[l_i(\theta)], \quad \theta_0 = \theta_o

Data: retain. Forgetting is left to chance: what the retain set does not
support may fade. A baseline of every comparison, after Golatkar et al., 2020,
https://arxiv.org/abs/1911.04933.
"""

import jax
import optax

from unlearn_jax.methods import base
from unlearn_jax.training.losses import masked_mean
from unlearn_jax.types import Batch, LossFn, Metrics, Params, UnlearningMethod


def fine_tune_direction(
  params: Params, retain: Batch, *, loss_fn: LossFn
) -> tuple[Params, Metrics]:
  """Returns the gradient of the mean retain loss.

  Args:
    params: any pytree of arrays.
    retain: batch of the retain set; `mask` [batch] is 0 on padding.
    loss_fn: maps (params, batch) to one loss per example, [batch].
  """

  def objective(params):
    return masked_mean(loss_fn(params, retain), retain['mask'])

  loss, gradient = jax.value_and_grad(objective)(params)
  return gradient, {'retain_loss': loss}


def fine_tune(
  loss_fn: LossFn, tx: optax.GradientTransformation
) -> UnlearningMethod:
  """Fine-tuning as an `UnlearningMethod`; the forget batch is not read."""

  def direction_fn(params, forget, retain, key, frozen, hyper):
    del forget, key, frozen, hyper
    return fine_tune_direction(params, retain, loss_fn=loss_fn)

  return base.from_direction(
    direction_fn,
    tx,
    needs=('retain',),
  )
