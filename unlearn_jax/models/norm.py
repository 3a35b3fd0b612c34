"""Group normalisation for activations [channels, frames, batch]."""

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from unlearn_jax.per_example import taps


class Scale(taps.Op):
  """Multiplies [channels, ..., batch] with a weight [channels]."""

  def __call__(self, weight: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the shape of x."""
    return x * _along_channels(weight, x)

  def grads(
    self, weight: jax.Array, x: jax.Array, cotangent: jax.Array
  ) -> jax.Array:
    """Returns [batch, channels]."""
    del weight
    return _sum_between(x * cotangent).transpose()


class Shift(taps.Op):
  """Adds a weight [channels] to [channels, ..., batch]."""

  def __call__(self, weight: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the shape of x."""
    return x + _along_channels(weight, x)

  def grads(
    self, weight: jax.Array, x: jax.Array, cotangent: jax.Array
  ) -> jax.Array:
    """Returns [batch, channels]."""
    del weight, x
    return _sum_between(cotangent).transpose()


def _along_channels(weight, x):
  return weight.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def _sum_between(x):
  return x.sum(tuple(range(1, x.ndim - 1)))


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
    if taps.active():
      inverse, mean = (jnp.repeat(a, in_group, axis=0) for a in (inverse, mean))
      x = (x - mean[:, None]) * inverse[:, None]
      return taps.apply(Shift(), bias, taps.apply(Scale(), scale, x))
    gain = jnp.repeat(inverse, in_group, axis=0) * scale[:, None]
    shift = bias[:, None] - jnp.repeat(mean, in_group, axis=0) * gain
    return x * gain[:, None] + shift[:, None]
