"""Group normalisation for activations [channels, frames, batch]."""

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp


class GroupNorm(nn.Module):
  r"""Normalises each example within groups of neighbouring channels.

  .. math:: y = s (x - \mu_g) / \sqrt{\sigma_g^2 + \epsilon} + b

  The numbers and the parameters of `flax.linen.GroupNorm`. Sums over frames
  come first, so that all the rest but one multiplication and one addition
  works on [channels, batch].

  Attributes:
    groups: must divide the channels.
    epsilon: added to the variance.
  """

  groups: int
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [channels, frames, batch] to the same shape.

    Raises:
      ValueError: if the groups do not divide the channels.
    """
    channels, frames, batch = x.shape
    if channels % self.groups:
      raise ValueError(
        f'groups must divide the {channels} channels, got {self.groups}.'
      )
    scale = self.param('scale', nn.initializers.ones, (channels,))
    bias = self.param('bias', nn.initializers.zeros, (channels,))
    in_group = channels // self.groups
    sums = jnp.stack([x.sum(1), jnp.square(x).sum(1)])
    sums = sums.reshape(2, self.groups, in_group, batch).sum(2)
    mean, mean_square = sums / (in_group * frames)
    variance = jnp.maximum(mean_square - jnp.square(mean), 0.0)
    inverse = lax.rsqrt(variance + self.epsilon)
    gain = jnp.repeat(inverse, in_group, axis=0) * scale[:, None]
    shift = bias[:, None] - jnp.repeat(mean, in_group, axis=0) * gain
    return x * gain[:, None] + shift[:, None]
