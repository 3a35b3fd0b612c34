r"""Gradient ascent: raise the loss of the forget set.

.. math::
  J(\theta) = -E_f[\min(l_i(\theta), c)], \quad
  \theta \leftarrow \theta + \eta \nabla E_f[\min(l_i, c)]

Data: forget. The bound c (`max_loss`) stops an example from pushing once its
loss has reached c: without it the ascent has no end, and ends in a constant or
random predictor.

References:
  Golatkar et al., 2020, https://arxiv.org/abs/1911.04933.
  Graves et al., 2021, https://arxiv.org/abs/2010.10981.
  Thudi et al., 2022, https://arxiv.org/abs/2109.13398.
"""

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.methods import base
from unlearn_jax.training.losses import masked_mean
from unlearn_jax.types import Batch, LossFn, Metrics, Params, UnlearningMethod


def gradient_ascent_direction(
  params: Params,
  forget: Batch,
  *,
  loss_fn: LossFn,
  max_loss: jax.typing.ArrayLike = jnp.inf,
) -> tuple[Params, Metrics]:
  """Returns the descent direction of the negated, bounded forget loss.

  Args:
    params: any pytree of arrays.
    forget: batch of the forget set; `mask` [batch] is 0 on padding.
    loss_fn: maps (params, batch) to one loss per example, [batch].
    max_loss: c in the formula, in nats, at least 0; 0 stops everything.
  """

  def objective(params):
    losses = loss_fn(params, forget)
    # Not jnp.minimum, which passes half the gradient at a tie.
    bounded = jnp.where(losses < max_loss, losses, max_loss)
    loss = masked_mean(losses, forget['mask'])
    return -masked_mean(bounded, forget['mask']), {'forget_loss': loss}

  return jax.grad(objective, has_aux=True)(params)


def gradient_ascent(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  *,
  max_loss: float = float('inf'),
) -> UnlearningMethod:
  """Gradient ascent as an `UnlearningMethod`; runs with `retain=None`.

  Raises:
    ValueError: if `max_loss` is negative.
  """
  base.check_range('max_loss', max_loss, 0.0)

  def direction_fn(params, forget, retain, key, frozen, hyper):
    del retain, key, frozen
    return gradient_ascent_direction(params, forget, loss_fn=loss_fn, **hyper)

  return base.from_direction(
    direction_fn,
    tx,
    hyper={'max_loss': max_loss},
    needs=('forget',),
  )
