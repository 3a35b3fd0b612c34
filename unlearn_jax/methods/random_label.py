r"""Random label: teach the forget set wrong labels, and the retain set its own.

.. math::
  J = E_f[-\log p_{\tilde y_i}(x_i)] + \lambda E_r[l_i], \quad
  \tilde y_i = (y_i + 1 + u_i) \bmod C, \quad u_i \sim U\{0, ..., C - 2\}

Data: both; forget alone where lambda is 0. Drawn so, a label is uniform over
the C - 1 wrong ones and never the true one. It is a function of the key and of
the example's id, so it does not depend on the order of batches.

References:
  Graves et al., 2021, https://arxiv.org/abs/2010.10981.
  Golatkar et al., 2020, https://arxiv.org/abs/1911.04933.
"""

import jax
import optax

from unlearn_jax.methods import base
from unlearn_jax.training.losses import masked_mean
from unlearn_jax.types import (
  Batch,
  LossFn,
  Metrics,
  Params,
  PredictFn,
  UnlearningMethod,
)


def wrong_labels(
  key: jax.Array, label: jax.Array, ids: jax.Array, num_classes: int
) -> jax.Array:
  """Draws a label other than the true one for each example.

  Args:
    key: the same key gives an example the same label in any batch.
    label: [batch] int, the true ones.
    ids: [batch] int, unique for each example.
    num_classes: C, at least 2.

  Returns:
    [batch] int, uniform over the C - 1 others.
  """
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)
  draw = jax.vmap(lambda k: jax.random.randint(k, (), 0, num_classes - 1))
  return (label + 1 + draw(keys)) % num_classes


def random_label_direction(
  params: Params,
  forget: Batch,
  retain: Batch | None,
  *,
  loss_fn: LossFn,
  retain_weight: jax.typing.ArrayLike,
) -> tuple[Params, Metrics]:
  """Returns the gradient of J; `forget['label']` holds the wrong labels.

  Args:
    params: any pytree of arrays.
    forget: batch of the forget set, relabelled.
    retain: batch of the retain set; None leaves its term out.
    loss_fn: maps (params, batch) to one loss per example, [batch].
    retain_weight: lambda in the formula, at least 0.
  """

  def objective(params):
    total = masked_mean(loss_fn(params, forget), forget['mask'])
    metrics = {'wrong_label_loss': total}
    if retain is not None:
      retain_loss = masked_mean(loss_fn(params, retain), retain['mask'])
      metrics['retain_loss'] = retain_loss
      total = total + retain_weight * retain_loss
    return total, metrics

  return jax.grad(objective, has_aux=True)(params)


def random_label(
  loss_fn: LossFn,
  predict_fn: PredictFn,
  tx: optax.GradientTransformation,
  *,
  retain_weight: float = 1.0,
  resample: bool = False,
) -> UnlearningMethod:
  """Random label as an `UnlearningMethod`.

  The forget batch holds `label` and `id`, both [batch] int. `retain` may be
  None, which leaves the retain term out.

  Args:
    loss_fn: maps (params, batch) to one loss per example, [batch].
    predict_fn: tells the number of classes.
    tx: any optax transform.
    retain_weight: lambda in the formula, at least 0.
    resample: draw anew at every step instead of once for the run.

  Raises:
    ValueError: if `retain_weight` is negative, or a batch has no `id`.
  """
  base.check_range('retain_weight', retain_weight, 0.0)

  def direction_fn(params, forget, retain, key, frozen, hyper):
    if 'id' not in forget:
      raise ValueError(
        'random_label needs an `id` [batch] of each example in forget batches, '
        'so that its wrong label stays the same.'
      )
    num_classes = jax.eval_shape(predict_fn, params, forget).shape[-1]
    label_key = key if resample else frozen
    label = wrong_labels(label_key, forget['label'], forget['id'], num_classes)
    return random_label_direction(
      params, {**forget, 'label': label}, retain, loss_fn=loss_fn, **hyper
    )

  return base.from_direction(
    direction_fn,
    tx,
    hyper={'retain_weight': retain_weight},
    freeze=lambda params, key: key,
    needs=('forget',),
  )
