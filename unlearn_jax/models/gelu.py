"""The Gaussian error linear unit, for batches on CPU.

Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016,
https://arxiv.org/abs/1606.08415, section 2.
"""

import math

import jax
from jax import lax
import jax.numpy as jnp


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
  """Returns x times the normal distribution at x, elementwise."""
  return x * _normal_cdf(x)


@gelu.defjvp
def _(primals, tangents):
  # One factor is kept for the backward pass, and not the terms of a sum.
  (x,), (direction,) = primals, tangents
  cdf = _normal_cdf(x)
  density = jnp.exp(-0.5 * x * x) * (2 * math.pi) ** -0.5
  return x * cdf, direction * (cdf + x * density)


def _normal_cdf(x):
  # By erf: `nn.gelu` takes the costlier erfc, for tails that do not matter.
  return 0.5 * (1.0 + lax.erf(x * 0.5**0.5))
