r"""Boundary shrink: give each forgotten example to its nearest wrong class.

.. math::
  x'_i &= x_i + \epsilon \sigma \odot \text{sign}(\nabla_x l_i(\theta_o)),
    \quad y'_i = \arg\max_{c \neq y_i} z_c(x'_i; \theta_o) \\
  J &= E_f[-\log p_{y'_i}(x_i)]

Data: forget. The standard deviation of each bin of the forget set, sigma, gives
epsilon its meaning for inputs of any scale; they are neither clipped nor
rounded. The neighbour is a class of the original model, which is kept, so an
example has the same one at every step. It is never the true class: where the
step does not cross the boundary, an argmax over all classes would train towards
what is to be forgotten.

References:
  Chen et al., 2023, https://arxiv.org/abs/2303.11570.
"""

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.methods import base
from unlearn_jax.methods import inputs
from unlearn_jax.training.losses import masked_mean
from unlearn_jax.types import (
  Batch,
  LossFn,
  Metrics,
  Params,
  PredictFn,
  UnlearningMethod,
)


def neighbour_labels(
  original: Params,
  batch: Batch,
  step: jax.Array,
  *,
  loss_fn: LossFn,
  predict_fn: PredictFn,
  input_name: str = 'features',
) -> jax.Array:
  """Returns the nearest class other than the true one, [batch] int.

  Args:
    original: parameters of the original model.
    batch: examples with their true `label` [batch] int.
    step: [bins], how far to go along the last axis of the input.
    loss_fn: maps (params, batch) to one loss per example, [batch].
    predict_fn: maps (params, batch) to logits [batch, classes].
    input_name: of the network's input in a batch, [batch, ..., bins].
  """
  x = inputs.as_float(batch[input_name])

  def total_loss(x):
    return loss_fn(original, {**batch, input_name: x}).sum()

  sign = jnp.sign(jax.grad(total_loss)(x))
  moved = x + inputs.along_last_axis(step, x.ndim) * sign
  logits = predict_fn(original, {**batch, input_name: moved})
  classes = logits.shape[-1]
  # The others, by their distance from the true class: it is not among them.
  label = batch['label'][:, None]
  others = (label + jnp.arange(1, classes)[None]) % classes
  best = jnp.take_along_axis(logits, others, axis=-1).argmax(-1)
  return (batch['label'] + 1 + best.astype(label.dtype)) % classes


def boundary_shrink_direction(
  params: Params, forget: Batch, *, loss_fn: LossFn
) -> tuple[Params, Metrics]:
  """Returns the gradient of J; `forget['label']` holds the neighbours.

  Args:
    params: any pytree of arrays.
    forget: batch of the forget set, relabelled.
    loss_fn: maps (params, batch) to one loss per example, [batch].
  """

  def objective(params):
    return masked_mean(loss_fn(params, forget), forget['mask'])

  loss, gradient = jax.value_and_grad(objective)(params)
  return gradient, {'neighbour_loss': loss}


def boundary_shrink(
  loss_fn: LossFn,
  predict_fn: PredictFn,
  tx: optax.GradientTransformation,
  *,
  input_name: str = 'features',
  epsilon: float = 0.1,
) -> UnlearningMethod:
  """Boundary shrink as an `UnlearningMethod`; runs with `retain=None`.

  `training.loop.prepare` measures the standard deviation of the inputs.

  Args:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    predict_fn: maps (params, batch) to logits [batch, classes].
    tx: any optax transform.
    input_name: of the network's input in a batch, [batch, ..., bins].
    epsilon: of the formula, in standard deviations, at least 0.

  Raises:
    ValueError: if `epsilon` is negative, or a step is taken before `prepare`.
  """
  base.check_range('epsilon', epsilon, 0.0)

  def direction_fn(params, forget, retain, key, frozen, hyper):
    del retain, key
    if frozen['std'] is None:
      raise ValueError(
        'boundary_shrink needs `loop.prepare` before its first step.'
      )
    label = neighbour_labels(
      frozen['original'],
      forget,
      hyper['epsilon'] * frozen['std'],
      loss_fn=loss_fn,
      predict_fn=predict_fn,
      input_name=input_name,
    )
    return boundary_shrink_direction(
      params, {**forget, 'label': label}, loss_fn=loss_fn
    )

  def prepare_fn(params, state, forget, retain, examples, key):
    del retain, key
    _, std = inputs.moments(forget, examples, input_name)
    return params, state._replace(frozen={**state.frozen, 'std': std})

  method = base.from_direction(
    direction_fn,
    tx,
    hyper={'epsilon': epsilon},
    freeze=lambda params, key: {'original': params, 'std': None},
    needs=('forget',),
  )
  return method._replace(prepare=prepare_fn)
