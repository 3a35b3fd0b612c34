r"""NegGrad+: descend the retain loss and ascend the forget loss at once.

.. math:: J(\theta) = a E_r[l_i] - (1 - a) E_f[l_i], \quad 0 \le a \le 1

Data: both. The two means are each over their own batch, so a does not depend
on the batch sizes.

References:
  Kurmanji et al., 2023, https://arxiv.org/abs/2302.09880, section 3.
"""

import jax
import optax

from unlearn_jax.methods import base
from unlearn_jax.training.losses import masked_mean
from unlearn_jax.types import Batch, LossFn, Metrics, Params, UnlearningMethod


def neg_grad_plus_direction(
  params: Params,
  forget: Batch,
  retain: Batch,
  *,
  loss_fn: LossFn,
  retain_weight: jax.typing.ArrayLike,
) -> tuple[Params, Metrics]:
  """Returns the NegGrad+ descent direction and the two mean losses.

  Args:
    params: any pytree of arrays.
    forget: batch of the forget set; `mask` [batch] is 0 on padding.
    retain: batch of the retain set, of its own size.
    loss_fn: maps (params, batch) to one loss per example, [batch].
    retain_weight: a in the formula, in [0, 1]; 1 is fine-tuning.
  """

  def objective(params):
    forget_loss = masked_mean(loss_fn(params, forget), forget['mask'])
    retain_loss = masked_mean(loss_fn(params, retain), retain['mask'])
    total = retain_weight * retain_loss - (1.0 - retain_weight) * forget_loss
    return total, {'forget_loss': forget_loss, 'retain_loss': retain_loss}

  return jax.grad(objective, has_aux=True)(params)


def neg_grad_plus(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  *,
  retain_weight: float = 0.95,
) -> UnlearningMethod:
  """NegGrad+ as an `UnlearningMethod`; `retain_weight=0` is gradient ascent.

  Raises:
    ValueError: if `retain_weight` is outside [0, 1].
  """
  base.check_range('retain_weight', retain_weight, 0.0, 1.0)

  def direction_fn(params, forget, retain, key, frozen, hyper):
    del key, frozen
    return neg_grad_plus_direction(
      params, forget, retain, loss_fn=loss_fn, **hyper
    )

  return base.from_direction(
    direction_fn,
    tx,
    hyper={'retain_weight': retain_weight},
    needs=('forget', 'retain'),
  )
