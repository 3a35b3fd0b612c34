"""What every network does first with its features."""

import jax
import jax.numpy as jnp


def standardise(features: jax.Array) -> jax.Array:
  """Gives each clip mean 0 and standard deviation 1.

  Per clip, and not with statistics of a training set: nothing of a forgotten
  clip can stay behind in statistics. The level of a recording is lost.

  Args:
    features: log-mels [batch, frames, bins] of any float type.

  Returns:
    the same shape, float32 at least.
  """
  features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
  mean = features.mean((-2, -1), keepdims=True)
  std = features.std((-2, -1), keepdims=True)
  return (features - mean) / (std + 1e-3)
