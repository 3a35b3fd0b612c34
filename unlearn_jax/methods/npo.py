r"""NPO, negative preference optimization: ascent that fades as it succeeds.

.. math::
  J = -\frac{2}{\beta} E_f[\log \sigma(\beta (l_i(\theta) - l_i(\theta_o)))]
  + \lambda E_r[l_i], \quad
  \nabla J = -E_f[2 \sigma(-\beta (l_i - l_i^o)) \nabla l_i]
  + \lambda E_r[\nabla l_i]

Data: forget; both where lambda is not 0. An example pushes by its weight
2 sigma(...): 1 at theta_o, and 0 once its loss is far above the original
model's, so the ascent ends by itself. As beta goes to 0 every weight goes to 1:
gradient ascent.

References:
  Zhang et al., 2024, https://arxiv.org/abs/2404.05868.
"""

import jax
import optax

from unlearn_jax.datasets.batches import fill_padding
from unlearn_jax.methods import base
from unlearn_jax.training.losses import masked_mean
from unlearn_jax.types import Batch, LossFn, Metrics, Params, UnlearningMethod


def npo_losses(
  losses: jax.Array, original_losses: jax.Array, beta: jax.Array | float
) -> jax.Array:
  r"""Returns :math:`-(2 / \beta) \log \sigma(\beta (l_i - l_i^o))`, [batch].

  Args:
    losses: of the model, [batch], in nats; may be infinite.
    original_losses: of the original model, [batch], finite.
    beta: > 0.
  """
  return -2.0 / beta * jax.nn.log_sigmoid(beta * (losses - original_losses))


def npo_direction(
  params: Params,
  forget: Batch,
  retain: Batch | None,
  *,
  loss_fn: LossFn,
  original: Params,
  beta: jax.Array | float,
  retain_weight: jax.Array | float = 0.0,
) -> tuple[Params, Metrics]:
  """Returns the gradient of J.

  Args:
    params: any pytree of arrays.
    forget: batch of the forget set; `mask` [batch] is 0 on padding.
    retain: batch of the retain set, of its own size; None leaves its term out.
    loss_fn: maps (params, batch) to one loss per example, [batch].
    original: parameters of the original model.
    beta: > 0; the larger, the sooner an example stops pushing.
    retain_weight: lambda in the formula, at least 0.
  """
  forget = fill_padding(forget)
  retain = None if retain is None else fill_padding(retain)
  original_losses = loss_fn(original, forget)

  def objective(params):
    losses = loss_fn(params, forget)
    npo = npo_losses(losses, original_losses, beta)
    total = masked_mean(npo, forget['mask'])
    forget_loss = masked_mean(losses, forget['mask'])
    metrics = {'forget_loss': forget_loss, 'npo_loss': total}
    if retain is not None:
      retain_loss = masked_mean(loss_fn(params, retain), retain['mask'])
      metrics['retain_loss'] = retain_loss
      total = total + retain_weight * retain_loss
    return total, metrics

  return jax.grad(objective, has_aux=True)(params)


def npo(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  *,
  beta: float = 0.1,
  retain_weight: float = 0.0,
) -> UnlearningMethod:
  """NPO as an `UnlearningMethod`.

  Args:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    tx: any optax transform.
    beta: > 0; the larger, the sooner an example stops pushing.
    retain_weight: lambda in the formula, at least 0. With 0 the retain batch is
      never read and the state holds no such hyper-parameter; otherwise
      `retain` may still be None, which leaves its term out.

  Raises:
    ValueError: if an option is outside its bounds.
  """
  if not 0 < beta < float('inf'):
    raise ValueError(f'beta must be in (0, inf), got {beta}.')
  base.check_range('retain_weight', retain_weight, 0.0)
  hyper = {'beta': beta}
  if retain_weight:
    hyper['retain_weight'] = retain_weight

  def direction_fn(params, forget, retain, key, frozen, hyper):
    del key
    return npo_direction(
      params,
      forget,
      retain if 'retain_weight' in hyper else None,
      loss_fn=loss_fn,
      original=frozen,
      **hyper,
    )

  return base.from_direction(
    direction_fn,
    tx,
    hyper=hyper,
    freeze=lambda params, key: params,
    needs=('forget',),
  )
