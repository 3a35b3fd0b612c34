"""Kullback-Leibler divergence of one example, from logits."""

import jax
import jax.numpy as jnp


def kl_divergence(
  target_logits: jax.Array,
  logits: jax.Array,
  temperature: jax.Array | float = 1.0,
) -> jax.Array:
  r"""Returns :math:`T^2 KL(p_{target}^T || p^T)`, in nats, summed over classes.

  The factor :math:`T^2` keeps the size of the gradient, and so the meaning of
  a learning rate, when the temperature changes.

  Args:
    target_logits: [batch, classes].
    logits: [batch, classes].
    temperature: T > 0.

  Returns:
    [batch], at least 0.
  """
  target = jax.nn.log_softmax(target_logits / temperature)
  log_p = jax.nn.log_softmax(logits / temperature)
  p = jnp.exp(target)
  # An impossible target class adds 0, not 0 * inf.
  terms = jnp.where(p > 0, p * (jnp.where(p > 0, target, 0.0) - log_p), 0.0)
  return temperature**2 * terms.sum(-1)
