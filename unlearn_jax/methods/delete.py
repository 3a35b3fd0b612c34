r"""DELETE: say what the original model would, were the true class impossible.

.. math::
  t_i = softmax(z_o(x_i) \text{ with entry } y_i \text{ at } -\infty), \quad
  J = E_f[KL(t_i || p_s(x_i))]

Data: forget. What the original model knows of the other classes is the target,
so a retain set is not needed. At theta_o the loss is -log(1 - p_o,y); with two
classes it is the cross-entropy to the other label.

References:
  Zhou et al., 2025, https://arxiv.org/abs/2503.23751.
"""

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.methods import base
from unlearn_jax.methods.divergence import kl_divergence
from unlearn_jax.training.losses import masked_mean
from unlearn_jax.types import (
  Batch,
  Metrics,
  Params,
  PredictFn,
  UnlearningMethod,
)


def without_label(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Makes the true class impossible.

  Args:
    logits: [batch, classes], at least two classes.
    label: [batch] int; a row whose label is no class stays as it is.

  Returns:
    [batch, classes], minus infinity at the label.
  """
  classes = jnp.arange(logits.shape[-1])
  return jnp.where(classes[None] == label[:, None], -jnp.inf, logits)


def delete_direction(
  params: Params, forget: Batch, *, predict_fn: PredictFn, original: Params
) -> tuple[Params, Metrics]:
  """Returns the gradient of J.

  Args:
    params: of the student; any pytree of arrays.
    forget: batch of the forget set, with `label` [batch] int; `mask` [batch]
      is 0 on padding.
    predict_fn: maps (params, batch) to logits [batch, classes].
    original: parameters of the teacher.
  """
  teacher = without_label(predict_fn(original, forget), forget['label'])

  def objective(params):
    kl = kl_divergence(teacher, predict_fn(params, forget))
    return masked_mean(kl, forget['mask'])

  loss, gradient = jax.value_and_grad(objective)(params)
  return gradient, {'forget_kl': loss}


def delete(
  predict_fn: PredictFn, tx: optax.GradientTransformation
) -> UnlearningMethod:
  """DELETE as an `UnlearningMethod`; runs with `retain=None`.

  Args:
    predict_fn: maps (params, batch) to logits [batch, classes].
    tx: any optax transform.
  """

  def direction_fn(params, forget, retain, key, frozen, hyper):
    del retain, key, hyper
    return delete_direction(
      params, forget, predict_fn=predict_fn, original=frozen
    )

  return base.from_direction(
    direction_fn,
    tx,
    freeze=lambda params, key: params,
    needs=('forget',),
  )
