"""Kullback-Leibler divergence of one example, from logits."""

import functools

import jax
import jax.numpy as jnp


def kl_divergence(
  target_logits: jax.Array,
  logits: jax.Array,
  temperature: jax.Array | float = 1.0,
) -> jax.Array:
  r"""Returns :math:`T^2 KL(p_{target}^T || p^T)`, in nats, summed over classes.

  The factor :math:`T^2` keeps the size of the gradient, and so the meaning of
  a learning rate, when the temperature changes. Where the two are equal, both
  gradients are exactly 0: an optimizer that divides by the size of the gradient
  would otherwise follow rounding errors.

  Args:
    target_logits: [batch, classes].
    logits: [batch, classes].
    temperature: T > 0.

  Returns:
    [batch], at least 0.
  """
  kl = _kl(target_logits / temperature, logits / temperature)
  return temperature**2 * kl


def _terms(target_logits, logits):
  """Returns both distributions and the logarithm of their ratio."""
  target = jax.nn.log_softmax(target_logits)
  log_p = jax.nn.log_softmax(logits)
  # An impossible target class adds 0, not 0 * inf.
  ratio = jnp.where(jnp.exp(target) > 0, target - log_p, 0.0)
  return jnp.exp(target), jnp.exp(log_p), ratio


@functools.partial(jax.custom_jvp)
def _kl(target_logits, logits):
  t, _, ratio = _terms(target_logits, logits)
  return (t * ratio).sum(-1)


@_kl.defjvp
def _kl_jvp(primals, tangents):
  t, p, ratio = _terms(*primals)
  kl = (t * ratio).sum(-1)
  d_target = t * (ratio - kl[..., None])
  # A class that both exclude moves neither, whatever its logit does.
  slopes = ((d_target, t), (p - t, p + t))
  change = sum(
    jnp.where(weight > 0, slope * tangent, 0.0).sum(-1)
    for (slope, weight), tangent in zip(slopes, tangents, strict=True)
  )
  return kl, change
