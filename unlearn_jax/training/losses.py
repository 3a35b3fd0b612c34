"""Losses of one example, and the masked mean that joins them."""

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.types import LossFn, PredictFn


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean of `values` [batch] where `mask` [batch] is one; 0 if nowhere.

  A padded row may hold anything, an infinity or a nan included.
  """
  total = jnp.where(mask > 0, values * mask, 0.0).sum()
  return total / jnp.maximum(mask.sum(), 1.0)


def cross_entropy(predict_fn: PredictFn) -> LossFn:
  r"""Returns the loss :math:`-\log p_y(x)` of `predict_fn`, in nats.

  The batch holds `label` [batch] int32.
  """

  def loss_fn(params, batch):
    return optax.softmax_cross_entropy_with_integer_labels(
      predict_fn(params, batch), batch['label']
    )

  return loss_fn
