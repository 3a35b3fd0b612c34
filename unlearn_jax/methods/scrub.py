r"""SCRUB: disobey the original model on the forget set, obey it elsewhere.

.. math::
  J_{max} &= -T^2 E_f[KL(p_o^T || p_s^T)] \\
  J_{min} &= \gamma E_r[l_i] + \alpha T^2 E_r[KL(p_o^T || p_s^T)]

Data: both. The two alternate: an epoch is one sweep of max-steps over the
forget set, in the first m epochs only, and then one sweep of min-steps over
the retain set; one optimizer serves both. Which step is which is said by the
batches (`methods.schedule.alternate`): the set that a step leaves out is all
padding, and its half of the objective is then neither evaluated nor counted.

The second part of SCRUB+R, going back to an epoch that does not forget too
much, is `methods.rewind`.

References:
  Kurmanji et al., 2023, https://arxiv.org/abs/2302.09880, section 3.
"""

import jax
import optax

from unlearn_jax.methods import base
from unlearn_jax.methods.divergence import kl_divergence
from unlearn_jax.training.losses import at_once
from unlearn_jax.training.losses import masked_mean
from unlearn_jax.types import (
  Batch,
  LossFn,
  Metrics,
  Params,
  PredictFn,
  UnlearningMethod,
)


def scrub_direction(
  params: Params,
  forget: Batch,
  retain: Batch,
  *,
  loss_fn: LossFn,
  predict_fn: PredictFn,
  original: Params,
  loss_weight: jax.typing.ArrayLike,
  distill_weight: jax.typing.ArrayLike,
  temperature: jax.typing.ArrayLike,
) -> tuple[Params, Metrics]:
  """Returns the gradient of J_max + J_min; padding alone drops either.

  Args:
    params: of the student; any pytree of arrays.
    forget: batch of the forget set; `mask` [batch] is 0 on padding.
    retain: batch of the retain set, of its own size.
    loss_fn: maps (params, batch) to one loss per example, [batch].
    predict_fn: maps (params, batch) to logits [batch, classes].
    original: parameters of the teacher.
    loss_weight: gamma, at least 0.
    distill_weight: alpha, at least 0.
    temperature: T > 0.
  """

  def distance(logits, batch):
    teacher = jax.lax.stop_gradient(predict_fn(original, batch))
    kl = kl_divergence(teacher, logits, temperature)
    return masked_mean(kl, batch['mask'])

  def max_objective(params):
    return distance(predict_fn(params, forget), forget)

  def min_objective(params):
    losses, logits = at_once(loss_fn, predict_fn)(params, retain)
    loss = masked_mean(losses, retain['mask'])
    return loss_weight * loss + distill_weight * distance(logits, retain)

  def objective(params):
    forget_kl = base.if_any(forget['mask'], lambda: max_objective(params))
    retain_loss = base.if_any(retain['mask'], lambda: min_objective(params))
    metrics = {'forget_kl': forget_kl, 'retain_objective': retain_loss}
    return retain_loss - forget_kl, metrics

  return jax.grad(objective, has_aux=True)(params)


def scrub(
  loss_fn: LossFn,
  predict_fn: PredictFn,
  tx: optax.GradientTransformation,
  *,
  loss_weight: float = 1.0,
  distill_weight: float = 0.5,
  temperature: float = 2.0,
) -> UnlearningMethod:
  """SCRUB as an `UnlearningMethod`; the batches say which steps alternate.

  Args:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    predict_fn: maps (params, batch) to logits [batch, classes].
    tx: any optax transform; one state serves both kinds of steps.
    loss_weight: gamma, at least 0.
    distill_weight: alpha, at least 0.
    temperature: T > 0.

  Raises:
    ValueError: if an option is outside its bounds.
  """
  base.check_range('loss_weight', loss_weight, 0.0)
  base.check_range('distill_weight', distill_weight, 0.0)
  if not temperature > 0:
    raise ValueError(f'temperature must be > 0, got {temperature}.')

  def direction_fn(params, forget, retain, key, frozen, hyper):
    del key
    return scrub_direction(
      params,
      forget,
      retain,
      loss_fn=loss_fn,
      predict_fn=predict_fn,
      original=frozen,
      **hyper,
    )

  return base.from_direction(
    direction_fn,
    tx,
    hyper={
      'loss_weight': loss_weight,
      'distill_weight': distill_weight,
      'temperature': temperature,
    },
    freeze=lambda params, key: params,
    needs=('forget', 'retain'),
  )
